// Answers the requests that `podx encode` wrote: one run of BUNDLE/recommend.onnx for each batch, nothing else of podx.
//
// Usage: recommend BUNDLE ENCODED.jsonl [--items items.txt] [--k 10] [--beams 20] [--batch 32] [--threads 0]

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Row = std::vector<std::int64_t>;

constexpr std::int64_t kNoNumber = -1;  // fills up a row of item numbers
constexpr std::int64_t kNoItem = 0;     // stands for an answer where there are fewer than k
constexpr std::int64_t kGraphK = 10;    // defaults in the graph
constexpr std::int64_t kGraphBeams = 20;
constexpr std::int64_t kDefaultBatch = 32;
constexpr int kExitCode = 2;

struct Options {
  std::filesystem::path bundle, requests;
  std::optional<std::string> items;
  std::optional<std::int64_t> k, beams;
  std::int64_t batch = kDefaultBatch;
  std::int64_t threads = 0;  // one per core
};

struct Request {
  Row input_ids, whole_word_ids, excluded_items, allowed_items;
  std::int64_t task_id = 0;
  Row user_rows;  // only of a model with prompt vectors of each user
};

// ---- reading ------------------------------------------------------------------------------------------------------

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot open " + path.string() + ": check that the path is right");
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The integers of one entry of a line, a list or a single one: {"input_ids": [3, 4, 1], "task_id": 0, ...}. What
// podx encode writes is all the JSON that is understood here.
Row numbers_of(const std::string& line, const std::string& name) {
  const std::runtime_error unreadable("there are no integers \"" + name + "\": write the file with podx encode");
  const auto key = line.find('"' + name + '"');
  if (key == std::string::npos) throw unreadable;
  std::istringstream text(line.substr(key + name.size() + 2));
  char sign = 0;
  if (!(text >> sign) || sign != ':') throw unreadable;
  const bool is_list = (text >> std::ws).peek() == '[';
  if (is_list) text >> sign;
  if (is_list && (text >> std::ws).peek() == ']') return {};
  Row numbers;
  do {
    std::int64_t number = 0;
    if (!(text >> number)) throw unreadable;
    numbers.push_back(number);
  } while (is_list && text >> sign && sign == ',');
  if (is_list && sign != ']') throw unreadable;
  return numbers;
}

Request parsed(const std::string& line) {
  Request request{numbers_of(line, "input_ids"), numbers_of(line, "whole_word_ids"), numbers_of(line, "excluded_items"),
                  numbers_of(line, "allowed_items"), numbers_of(line, "task_id").at(0), {}};
  if (line.find("\"user_rows\"") != std::string::npos) request.user_rows = numbers_of(line, "user_rows");
  if (request.input_ids.empty() || request.input_ids.size() != request.whole_word_ids.size()) {
    throw std::runtime_error("input_ids and whole_word_ids must be equally long: write the file with podx encode");
  }
  return request;
}

std::vector<Request> requests_of(const std::filesystem::path& path) {
  std::vector<Request> requests;
  std::size_t place = 0;
  for (const auto& line : lines_of(path)) {
    ++place;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      requests.push_back(parsed(line));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path.string() + ", line " + std::to_string(place) + ": " + error.what());
    }
  }
  return requests;
}

// ---- one batch ----------------------------------------------------------------------------------------------------

// Input tensors by name; the numbers live here, for a tensor only points to them.
class Feeds {
 public:
  Feeds(const Request* first, const Request* last) : rows_(last - first) {
    add("input_ids", first, last, 0, [](const Request& r) { return r.input_ids; });
    add("whole_word_ids", first, last, 0, [](const Request& r) { return r.whole_word_ids; });
    add("attention_mask", first, last, 0, [](const Request& r) { return Row(r.input_ids.size(), 1); });
    add("excluded_items", first, last, kNoNumber, [](const Request& r) { return r.excluded_items; });
    add("allowed_items", first, last, kNoNumber, [](const Request& r) { return r.allowed_items; });
    if (!first->user_rows.empty()) {
      add("user_rows", first, last, kNoNumber, [](const Request& r) { return r.user_rows; });
    }
    Row tasks;
    for (const Request* request = first; request != last; ++request) tasks.push_back(request->task_id);
    add("task_id", std::move(tasks), {rows_});
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
  void add(const char* name, const Request* first, const Request* last, std::int64_t filler, RowOf row_of) {
    std::size_t width = 0;
    for (const Request* request = first; request != last; ++request) width = std::max(width, row_of(*request).size());
    Row padded;
    for (const Request* request = first; request != last; ++request) {
      const Row row = row_of(*request);
      padded.insert(padded.end(), row.begin(), row.end());
      padded.insert(padded.end(), width - row.size(), filler);
    }
    add(name, std::move(padded), {rows_, static_cast<std::int64_t>(width)});
  }

  void add(const char* name, Row numbers, const std::vector<std::int64_t>& shape) {
    Row& kept = numbers_[name] = std::move(numbers);
    values_.push_back(Ort::Value::CreateTensor<std::int64_t>(memory_, kept.data(), kept.size(), shape.data(),
                                                             shape.size()));
    names_.push_back(name);
  }

  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::int64_t rows_;
  std::map<std::string, Row> numbers_;
  std::vector<const char*> names_;
  std::vector<Ort::Value> values_;
};

// ---- writing ------------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::ostringstream json;
  json << '"';
  for (const char sign : text) {
    if (sign == '"' || sign == '\\') {
      json << '\\' << sign;
    } else if (static_cast<unsigned char>(sign) < ' ') {
      json << "\\u" << std::hex << std::setw(4) << std::setfill('0') << static_cast<int>(sign);
    } else {
      json << sign;
    }
  }
  json << '"';
  return json.str();
}

void print(const std::vector<Ort::Value>& outputs, const std::vector<std::string>& raw_ids) {
  const auto shape = outputs[0].GetTensorTypeAndShapeInfo().GetShape();
  const auto* items = outputs[0].GetTensorData<std::int64_t>();
  const auto* scores = outputs[1].GetTensorData<float>();
  const auto* exact = outputs[2].GetTensorData<bool>();
  for (std::int64_t row = 0; row < shape[0]; ++row, items += shape[1], scores += shape[1]) {
    const auto found = std::find(items, items + shape[1], kNoItem) - items;  // the missing ones come last
    std::cout << "{\"items\": [";
    for (std::ptrdiff_t place = 0; place < found; ++place) {
      std::cout << (place ? ", " : "");
      if (raw_ids.empty()) {
        std::cout << items[place];
      } else {
        std::cout << quoted(raw_ids.at(static_cast<std::size_t>(items[place] - 1)));
      }
    }
    std::cout << "], \"scores\": [";
    for (std::ptrdiff_t place = 0; place < found; ++place) std::cout << (place ? ", " : "") << scores[place];
    std::cout << "], \"exact\": " << (exact[row] ? "true" : "false") << "}\n";
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
    else if (name == "--k") options.k = whole_number(name, value, 1);
    else if (name == "--beams") options.beams = whole_number(name, value, 1);
    else if (name == "--batch") options.batch = whole_number(name, value, 1);
    else if (name == "--threads") options.threads = whole_number(name, value, 0);
    else throw std::runtime_error("there is no option " + name);
  }
  if (places.size() != 2) throw std::runtime_error("give a bundle folder and a file that podx encode wrote");
  if (options.k.value_or(kGraphK) > options.beams.value_or(kGraphBeams)) {
    throw std::runtime_error("--beams must not be below --k: give a larger --beams");
  }
  options.bundle = places[0];
  options.requests = places[1];
  return options;
}

void answer(const Options& options) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "podx");
  Ort::SessionOptions session_options;
  session_options.SetIntraOpNumThreads(static_cast<int>(options.threads));
  Ort::Session session(env, (options.bundle / "recommend.onnx").c_str(), session_options);
  const auto raw_ids = options.items ? lines_of(*options.items) : std::vector<std::string>{};
  const auto requests = requests_of(options.requests);
  std::cout << std::setprecision(std::numeric_limits<float>::max_digits10);
  const auto step = static_cast<std::size_t>(options.batch);
  for (std::size_t first = 0; first < requests.size(); first += step) {
    const std::size_t last = std::min(requests.size(), first + step);
    Feeds feeds(requests.data() + first, requests.data() + last);
    feeds.add_optional("k", options.k);
    feeds.add_optional("beams", options.beams);
    print(feeds.run(session), raw_ids);
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
