// Other defaults for inputs of a graph that have one: `k` answers, `beams` searched.
//
// ONNX lets a caller feed such inputs or leave them out. onnxruntime-node (1.30) offers only the inputs without a
// default and passes over all others in silence, so here the defaults themselves are changed, in the graph's bytes,
// before the session is made. A default is a tensor of one int64: 8 bytes that can be overwritten where they are.

const GRAPH = 7; // ModelProto.graph
const INITIALIZER = 5; // GraphProto.initializer
const NAME = 8; // TensorProto.name
const RAW_DATA = 9; // TensorProto.raw_data
const WIRE_VARINT = 0;
const WIRE_64_BITS = 1;
const WIRE_BYTES = 2;
const WIRE_32_BITS = 5;

/** A protobuf varint of `bytes`: its value and the place after it. */
function varint(bytes, start) {
  let value = 0;
  let place = start;
  let scale = 1;
  for (; bytes[place] >= 0x80; place += 1, scale *= 0x80) value += (bytes[place] & 0x7f) * scale;
  return [value + bytes[place] * scale, place + 1];
}

/** The fields of a protobuf message that hold bytes, as [field number, view of the bytes]. */
function* byteFields(message) {
  let place = 0;
  while (place < message.length) {
    let tag, length;
    [tag, place] = varint(message, place);
    const wire = tag & 7;
    if (wire === WIRE_BYTES) {
      [length, place] = varint(message, place);
      yield [tag >>> 3, message.subarray(place, place + length)];
      place += length;
    } else if (wire === WIRE_VARINT) [, place] = varint(message, place);
    else if (wire === WIRE_64_BITS) place += 8;
    else if (wire === WIRE_32_BITS) place += 4;
    else throw new Error("the graph is damaged: copy the bundle anew");
  }
}

const fieldsOf = (message, wanted) =>
  [...byteFields(message)].filter(([number]) => number === wanted).map(([, bytes]) => bytes);

/**
 * The graph with other defaults.
 *
 * @param {Buffer} model bytes of the graph
 * @param {Object<string, number | undefined>} values new default by input name; undefined leaves what is there
 * @returns {Buffer} a copy
 */
export function withDefaults(model, values) {
  const changed = Buffer.from(model);
  const tensors = fieldsOf(changed, GRAPH).flatMap((graph) => fieldsOf(graph, INITIALIZER));
  const named = new Map(tensors.map((tensor) => [fieldsOf(tensor, NAME).toString(), tensor]));
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) continue;
    const [raw] = named.has(name) ? fieldsOf(named.get(name), RAW_DATA) : [];
    if (raw?.length !== 8) throw new Error(`this graph has no default for ${name}: export the bundle again`);
    raw.writeBigInt64LE(BigInt(value));
  }
  return changed;
}
