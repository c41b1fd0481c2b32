// Answers requests of raw ids: a map of numbers and one run of BUNDLE/recommend_numbers.onnx for each batch.
//
// Usage: node recommend.mjs BUNDLE REQUESTS.jsonl --items items.txt [--users users.txt]
//                           [--k 10] [--beams 20] [--batch 32] [--threads 0]
//
// `podx ids` writes items.txt and users.txt. A line of REQUESTS.jsonl asks for the next items,
// {"user": "u1", "history": ["i1", "i2"], "exclude": ["i3"], "allow": ["i4"]}, or for the best of some candidates,
// {"user": "u1", "candidates": ["i1", "i2"]}.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import * as ort from "onnxruntime-node";

import { withDefaults } from "./defaults.mjs";

const ERRORS_ONLY = 3; // of ONNX Runtime's log levels
const NO_NUMBER = -1; // fills up a row, and stands for a user whom the model does not know
const NO_ITEM = 0; // stands for an answer where there are fewer than k
const GRAPH_K = 10; // defaults in the graph
const GRAPH_BEAMS = 20;
const DEFAULT_BATCH = 32;
const ONE_PER_CORE = 0; // threads
const EXIT_CODE = 2;

const linesOf = (path) => readFileSync(path, "utf8").split("\n");

/** Numbers of raw ids: that of line n is n. */
const numbersOf = (rawIds) => new Map(rawIds.flatMap((raw, place) => (raw === "" ? [] : [[raw, place + 1]])));

/** The request in a line, by number. Items of the history may come back as candidates, and not otherwise. */
function parsed(line, users, items) {
  const { user, history, exclude, candidates, allow = candidates } = JSON.parse(line);
  if (typeof user !== "string" || !(history ?? candidates)) throw new Error("give a user, and a history or candidates");
  const numbered = (rawIds) => (rawIds ?? []).map((raw) => {
    if (!items.has(raw)) throw new Error(`${JSON.stringify(raw)} is no item of this bundle`);
    return items.get(raw);
  });
  return {
    user: users.get(user) ?? NO_NUMBER,
    history: numbered(history),
    excluded_items: numbered(candidates ? exclude : [...(history ?? []), ...(exclude ?? [])]),
    allowed_items: allow ? [...numbered(allow), NO_ITEM] : [], // a row without a number would set no limit
  };
}

/** The requests of a file; empty lines are passed over. */
function requestsOf(path, users, items) {
  return linesOf(path).flatMap((line, place) => {
    try {
      return line.trim() === "" ? [] : [parsed(line, users, items)];
    } catch (error) {
      throw new Error(`${path}, line ${place + 1}: ${error.message}`);
    }
  });
}

/** Rows of different length → int64 [rows, longest], filled up on the right. */
function padded(rows) {
  const width = Math.max(...rows.map((row) => row.length));
  const data = new BigInt64Array(rows.length * width).fill(BigInt(NO_NUMBER));
  rows.forEach((row, place) => data.set(row.map(BigInt), place * width));
  return new ort.Tensor("int64", data, [rows.length, width]);
}

/** The inputs that the graph has: a model that reads nothing of the user has no `user`, for example. */
function feedsOf(requests, names) {
  const column = (name) => requests.map((request) => request[name]);
  const users = column("user");
  const feeds = {
    user: new ort.Tensor("int64", BigInt64Array.from(users, BigInt), [users.length]),
    user_rows: padded(users.map((user) => [Math.max(user, 0)])), // of a model with prompt vectors of each user
    ...Object.fromEntries(["history", "excluded_items", "allowed_items"].map((name) => [name, padded(column(name))])),
  };
  return Object.fromEntries(names.map((name) => [name, feeds[name]]));
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
  const names = ["items", "users", "k", "beams", "batch", "threads"];
  const options = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (positionals.length !== 2 || values.items === undefined) {
    throw new Error("give a bundle folder, a file of requests and --items");
  }
  const [k, beams, batch] = ["k", "beams", "batch"].map((name) => wholeNumber(values, name, 1));
  if ((k ?? GRAPH_K) > (beams ?? GRAPH_BEAMS)) throw new Error("--beams must not be below --k: give a larger --beams");
  return {
    bundle: positionals[0],
    requests: positionals[1],
    items: values.items,
    users: values.users,
    search: { k, beams },
    batch: batch ?? DEFAULT_BATCH,
    threads: wholeNumber(values, "threads", 0) ?? ONE_PER_CORE,
  };
}

async function main() {
  const options = optionsOf();
  const items = linesOf(options.items);
  const users = options.users === undefined ? [] : linesOf(options.users);
  const requests = requestsOf(options.requests, numbersOf(users), numbersOf(items));
  const model = withDefaults(readFileSync(join(options.bundle, "recommend_numbers.onnx")), options.search);
  const session = await ort.InferenceSession.create(model, {
    intraOpNumThreads: options.threads,
    logSeverityLevel: ERRORS_ONLY,
    // weights.bin and catalog.bin (and user_prompts.bin of PeaPOD) lie beside the graph, which was given as bytes
    extra: { session: { model_external_initializers_file_folder_path: options.bundle } },
  });
  for (let first = 0; first < requests.length; first += options.batch) {
    const batch = requests.slice(first, first + options.batch);
    for (const answer of answersOf(await session.run(feedsOf(batch, session.inputNames)))) {
      console.log(JSON.stringify({ ...answer, items: answer.items.map((number) => items[number - 1]) }));
    }
  }
}

try {
  await main();
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = EXIT_CODE;
}
