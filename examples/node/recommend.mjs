// Answers the requests that `podx encode` wrote: one run of BUNDLE/recommend.onnx for each batch, nothing else of podx.
//
// Usage: node recommend.mjs BUNDLE ENCODED.jsonl [--items items.txt] [--k 10] [--beams 20] [--batch 32] [--threads 0]

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import * as ort from "onnxruntime-node";

import { withDefaults } from "./defaults.mjs";

const ROWS = ["input_ids", "whole_word_ids", "excluded_items", "allowed_items"];
const ERRORS_ONLY = 3; // of ONNX Runtime's log levels
const NO_NUMBER = -1; // fills up a row of item or user numbers
const NO_ITEM = 0; // stands for an answer where there are fewer than k
const GRAPH_K = 10; // defaults in the graph
const GRAPH_BEAMS = 20;
const DEFAULT_BATCH = 32;
const ONE_PER_CORE = 0; // threads
const EXIT_CODE = 2;

const linesOf = (path) => readFileSync(path, "utf8").split("\n");

/** The request in a line that podx encode wrote. */
function parsed(line) {
  const request = JSON.parse(line);
  const missing = ROWS.find((name) => !Array.isArray(request[name]));
  if (missing !== undefined) throw new Error(`there is no list ${missing}`);
  return request;
}

/** The requests of a file; empty lines are passed over. */
function requestsOf(path) {
  return linesOf(path).flatMap((line, place) => {
    try {
      return line.trim() === "" ? [] : [parsed(line)];
    } catch (error) {
      throw new Error(`${path}, line ${place + 1}: ${error.message}: write the file with podx encode`);
    }
  });
}

/** Rows of different length → int64 [rows, longest], filled up on the right. */
function padded(rows, filler) {
  const width = Math.max(...rows.map((row) => row.length));
  const data = new BigInt64Array(rows.length * width).fill(BigInt(filler));
  rows.forEach((row, place) => data.set(row.map(BigInt), place * width));
  return new ort.Tensor("int64", data, [rows.length, width]);
}

/** Every input of the graph that has no default. Requests of different tasks may share a batch. */
function feedsOf(requests) {
  const column = (name) => requests.map((request) => request[name]);
  return {
    input_ids: padded(column("input_ids"), 0),
    whole_word_ids: padded(column("whole_word_ids"), 0),
    attention_mask: padded(column("input_ids").map((row) => row.map(() => 1)), 0),
    task_id: new ort.Tensor("int64", BigInt64Array.from(column("task_id"), BigInt), [requests.length]),
    excluded_items: padded(column("excluded_items"), NO_NUMBER),
    allowed_items: padded(column("allowed_items"), NO_NUMBER),
    // only of a model with prompt vectors of each user
    ...(requests[0].user_rows === undefined ? {} : { user_rows: padded(column("user_rows"), NO_NUMBER) }),
  };
}

/** What the graph gave, one answer for each request. */
function* answersOf({ items, scores, exact }) {
  const [rows, width] = items.dims;
  for (let row = 0; row < rows; row += 1) {
    const numbers = Array.from(items.data.slice(row * width, (row + 1) * width), Number);
    const found = numbers.filter((number) => number !== NO_ITEM); // the missing ones come last
    const own = Array.from(scores.data.slice(row * width, row * width + found.length));
    yield { items: found, scores: own, exact: exact.data[row] === 1 };
  }
}

/** The value of an option that is a whole number of at least `least`; undefined where it is not given. */
function wholeNumber(values, name, least) {
  const text = values[name];
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text) || Number(text) < least) {
    throw new Error(`--${name} must be a whole number of at least ${least}, not ${text}`);
  }
  return Number(text);
}

function optionsOf() {
  const names = ["items", "k", "beams", "batch", "threads"];
  const options = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 2) throw new Error("give a bundle folder and a file that podx encode wrote");
  const [k, beams, batch] = ["k", "beams", "batch"].map((name) => wholeNumber(values, name, 1));
  if ((k ?? GRAPH_K) > (beams ?? GRAPH_BEAMS)) throw new Error("--beams must not be below --k: give a larger --beams");
  return {
    bundle: positionals[0],
    requests: positionals[1],
    items: values.items,
    search: { k, beams },
    batch: batch ?? DEFAULT_BATCH,
    threads: wholeNumber(values, "threads", 0) ?? ONE_PER_CORE,
  };
}

async function main() {
  const options = optionsOf();
  const model = withDefaults(readFileSync(join(options.bundle, "recommend.onnx")), options.search);
  const session = await ort.InferenceSession.create(model, {
    intraOpNumThreads: options.threads,
    logSeverityLevel: ERRORS_ONLY,
    // weights.bin and catalog.bin (and user_prompts.bin of PeaPOD) lie beside the graph, which was given as bytes
    extra: { session: { model_external_initializers_file_folder_path: options.bundle } },
  });
  const rawIds = options.items === undefined ? undefined : linesOf(options.items);
  const requests = requestsOf(options.requests);
  for (let first = 0; first < requests.length; first += options.batch) {
    const outputs = await session.run(feedsOf(requests.slice(first, first + options.batch)));
    for (const answer of answersOf(outputs)) {
      if (rawIds !== undefined) answer.items = answer.items.map((number) => rawIds[number - 1]);
      console.log(JSON.stringify(answer));
    }
  }
}

try {
  await main();
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = EXIT_CODE;
}
