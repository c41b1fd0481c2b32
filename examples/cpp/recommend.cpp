// Answers requests of raw ids: a map of numbers and one run of BUNDLE/recommend_numbers.onnx for each batch.
//
// Usage: recommend BUNDLE REQUESTS.jsonl --items items.txt [--users users.txt]
//                  [--k 10] [--beams 20] [--batch 32] [--threads 0]
//
// `podx ids` writes items.txt and users.txt. A line of REQUESTS.jsonl asks for the next items,
// {"user": "u1", "history": ["i1", "i2"], "exclude": ["i3"], "allow": ["i4"]}, or for the best of some candidates,
// {"user": "u1", "candidates": ["i1", "i2"]}.

#include <onnxruntime_cxx_api.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using Json = nlohmann::json;
using Row = std::vector<std::int64_t>;
using Texts = std::vector<std::string>;
using Numbers = std::unordered_map<std::string, std::int64_t>;

constexpr std::int64_t kNoNumber = -1;  // fills up a row, and stands for a user whom the model does not know
constexpr std::int64_t kNoItem = 0;     // stands for an answer where there are fewer than k
constexpr std::int64_t kGraphK = 10;    // defaults in the graph
constexpr std::int64_t kGraphBeams = 20;
constexpr std::int64_t kDefaultBatch = 32;
constexpr int kExitCode = 2;

struct Options {
  std::filesystem::path bundle, requests;
  std::optional<std::string> items, users;
  std::optional<std::int64_t> k, beams;
  std::int64_t batch = kDefaultBatch;
  std::int64_t threads = 0;  // one per core
};

struct Request {
  std::int64_t user = kNoNumber;
  Row history, excluded_items, allowed_items;
};

// ---- reading ------------------------------------------------------------------------------------------------------

Texts lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path.string() + ": check that the path is right");
  Texts lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// Numbers of raw ids: that of line n is n.
Numbers numbers_of(const Texts& raw_ids) {
  Numbers numbers;
  for (const auto& raw : raw_ids) numbers.emplace(raw, static_cast<std::int64_t>(numbers.size()) + 1);
  return numbers;
}

// Appends the numbers of the items that an entry of a request lists, if there is such an entry.
void append(Row& row, const Json& request, const char* name, const Numbers& items) {
  for (const auto& entry : request.value(name, Json()).is_null() ? Json::array() : request.at(name)) {
    const auto raw = entry.get<std::string>();
    const auto found = items.find(raw);
    if (found == items.end()) throw std::runtime_error('"' + raw + "\" is no item of this bundle");
    row.push_back(found->second);
  }
}

// The request in a line, by number. Items of the history may come back as candidates, and not otherwise.
Request parsed(const std::string& line, const Numbers& users, const Numbers& items) {
  const auto json = Json::parse(line);
  Request request;
  const auto user = users.find(json.at("user").get<std::string>());
  if (user != users.end()) request.user = user->second;
  const bool ranks = json.contains("candidates");
  if (!ranks && json.value("history", Json()).is_null()) throw std::runtime_error("give a history or candidates");
  append(request.history, json, "history", items);
  if (!ranks) request.excluded_items = request.history;
  append(request.excluded_items, json, "exclude", items);
  append(request.allowed_items, json, ranks ? "candidates" : "allow", items);
  // a row without a number would set no limit
  if (ranks || !json.value("allow", Json()).is_null()) request.allowed_items.push_back(kNoItem);
  return request;
}

std::vector<Request> requests_of(const std::filesystem::path& path, const Numbers& users, const Numbers& items) {
  std::vector<Request> requests;
  std::size_t place = 0;
  for (const auto& line : lines_of(path)) {
    ++place;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      requests.push_back(parsed(line, users, items));
    } catch (const std::exception& error) {
      throw std::runtime_error(path.string() + ", line " + std::to_string(place) + ": " + error.what());
    }
  }
  return requests;
}

// ---- one batch ----------------------------------------------------------------------------------------------------

// Input tensors by name; the numbers live here, for a tensor only points to them.
class Feeds {
 public:
  // names: the inputs that the graph has. A model that reads nothing of the user has no "user", for example.
  Feeds(const Request* first, const Request* last, const std::set<std::string>& names)
      : rows_(last - first), wanted_(names) {
    Row users;
    for (const Request* request = first; request != last; ++request) users.push_back(request->user);
    add("user", std::move(users), {rows_});
    // of a model with prompt vectors of each user
    add("user_rows", first, last, [](const Request& r) { return Row{std::max<std::int64_t>(r.user, 0)}; });
    add("history", first, last, [](const Request& r) { return r.history; });
    add("excluded_items", first, last, [](const Request& r) { return r.excluded_items; });
    add("allowed_items", first, last, [](const Request& r) { return r.allowed_items; });
  }

  // An input that has a default in the graph is fed only where something else is wanted.
  void add_optional(const char* name, std::optional<std::int64_t> value) {
    if (value) add(name, Row{*value}, {1});
  }

  std::vector<Ort::Value> run(Ort::Session& session) {
    const std::array<const char*, 3> outputs{"items", "scores", "exact"};
    return session.Run(Ort::RunOptions{}, names_.data(), values_.data(), values_.size(), outputs.data(),
                       outputs.size());
  }

 private:
  template <typename RowOf>
  void add(const char* name, const Request* first, const Request* last, RowOf row_of) {
    std::size_t width = 0;
    for (const Request* request = first; request != last; ++request) width = std::max(width, row_of(*request).size());
    Row padded;
    for (const Request* request = first; request != last; ++request) {
      const Row row = row_of(*request);
      padded.insert(padded.end(), row.begin(), row.end());
      padded.insert(padded.end(), width - row.size(), kNoNumber);
    }
    add(name, std::move(padded), {rows_, static_cast<std::int64_t>(width)});
  }

  void add(const char* name, Row numbers, const std::vector<std::int64_t>& shape) {
    if (wanted_.count(name) == 0) return;
    Row& kept = numbers_[name] = std::move(numbers);
    values_.push_back(Ort::Value::CreateTensor<std::int64_t>(memory_, kept.data(), kept.size(), shape.data(),
                                                             shape.size()));
    names_.push_back(name);
  }

  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::int64_t rows_;
  const std::set<std::string>& wanted_;
  std::map<std::string, Row> numbers_;
  std::vector<const char*> names_;
  std::vector<Ort::Value> values_;
};

// ---- writing ------------------------------------------------------------------------------------------------------

void print(const std::vector<Ort::Value>& outputs, const Texts& raw_ids) {
  const auto shape = outputs[0].GetTensorTypeAndShapeInfo().GetShape();
  const auto* items = outputs[0].GetTensorData<std::int64_t>();
  const auto* scores = outputs[1].GetTensorData<float>();
  const auto* exact = outputs[2].GetTensorData<bool>();
  for (std::int64_t row = 0; row < shape[0]; ++row, items += shape[1], scores += shape[1]) {
    const auto found = std::find(items, items + shape[1], kNoItem) - items;  // the missing ones come last
    Json answer{{"items", Json::array()}, {"scores", std::vector<float>(scores, scores + found)}, {"exact", exact[row]}};
    for (std::ptrdiff_t place = 0; place < found; ++place) answer["items"].push_back(raw_ids.at(items[place] - 1));
    std::cout << answer << '\n';
  }
}

// ---- options ------------------------------------------------------------------------------------------------------

std::int64_t whole_number(const std::string& name, const std::string& text, std::int64_t least) {
  const bool digits = !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || std::stoll(text) < least) {
    throw std::runtime_error(name + " must be a whole number of at least " + std::to_string(least) + ", not " + text);
  }
  return std::stoll(text);
}

Options options_of(const std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> places;
  for (std::size_t at = 0; at < arguments.size(); ++at) {
    const std::string& name = arguments[at];
    if (name.rfind("--", 0) != 0) {
      places.push_back(name);
      continue;
    }
    if (at + 1 == arguments.size()) throw std::runtime_error(name + " needs a value");
    const std::string& value = arguments[++at];
    if (name == "--items") options.items = value;
    else if (name == "--users") options.users = value;
    else if (name == "--k") options.k = whole_number(name, value, 1);
    else if (name == "--beams") options.beams = whole_number(name, value, 1);
    else if (name == "--batch") options.batch = whole_number(name, value, 1);
    else if (name == "--threads") options.threads = whole_number(name, value, 0);
    else throw std::runtime_error("there is no option " + name);
  }
  if (places.size() != 2 || !options.items) {
    throw std::runtime_error("give a bundle folder, a file of requests and --items");
  }
  if (options.k.value_or(kGraphK) > options.beams.value_or(kGraphBeams)) {
    throw std::runtime_error("--beams must not be below --k: give a larger --beams");
  }
  options.bundle = places[0];
  options.requests = places[1];
  return options;
}

std::set<std::string> inputs_of(const Ort::Session& session) {
  std::set<std::string> names{"k", "beams"};
  Ort::AllocatorWithDefaultOptions allocator;
  for (std::size_t at = 0; at < session.GetInputCount(); ++at) {
    names.insert(session.GetInputNameAllocated(at, allocator).get());
  }
  return names;
}

void answer(const Options& options) {
  const auto items = lines_of(*options.items), users = options.users ? lines_of(*options.users) : Texts{};
  const auto requests = requests_of(options.requests, numbers_of(users), numbers_of(items));
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "podx");
  Ort::SessionOptions session_options;
  session_options.SetIntraOpNumThreads(static_cast<int>(options.threads));
  Ort::Session session(env, (options.bundle / "recommend_numbers.onnx").c_str(), session_options);
  const auto names = inputs_of(session);
  const auto step = static_cast<std::size_t>(options.batch);
  for (std::size_t first = 0; first < requests.size(); first += step) {
    const std::size_t last = std::min(requests.size(), first + step);
    Feeds feeds(requests.data() + first, requests.data() + last, names);
    feeds.add_optional("k", options.k);
    feeds.add_optional("beams", options.beams);
    print(feeds.run(session), items);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    answer(options_of({arguments + 1, arguments + count}));
  } catch (const std::exception& error) {  // Ort::Exception is one
    std::cerr << "error: " << error.what() << '\n';
    return kExitCode;
  }
  return 0;
}
