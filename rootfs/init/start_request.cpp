#include "rootfs/init/start_request.h"

#include <cstring>
#include <span>

#include "base/agent_protocol.h"

namespace mayfly::init {
namespace {

// Takes `count` NUL-terminated strings off the front of `text`; null if there are not as many.
bool take_strings(std::span<char>& text, std::span<char*> out) {
  for (char*& string : out) {
    if (text.empty()) return false;
    const auto* end = static_cast<const char*>(std::memchr(text.data(), '\0', text.size()));
    if (end == nullptr) return false;
    string = text.data();
    text = text.subspan(static_cast<std::size_t>(end - text.data()) + 1);
  }
  return true;
}

}  // namespace

bool parse_start(Buffer body, StartRequest& request) {
  base::agent::Start head;
  if (body.size() < sizeof(head)) return false;
  std::memcpy(&head, body.bytes().data(), sizeof(head));
  std::span<char> text = body.bytes().subspan(sizeof(head));
  const std::size_t arguments = head.argument_count;
  const std::size_t variables = head.environment_count;
  // Each string has at least its NUL, which bounds both counts by the length of the frame.
  if ((head.flags & ~base::agent::kStartTty) != 0 || arguments == 0) return false;
  if (arguments > text.size() || variables > text.size()) return false;

  const std::size_t entries = 1 + arguments + 1 + variables + StartRequest::kSpareVariables + 1;
  Buffer pointers = Buffer::allocate(entries * sizeof(char*));
  if (!pointers.valid()) return false;
  std::memset(pointers.bytes().data(), 0, pointers.size());
  const std::span<char*> table(static_cast<char**>(static_cast<void*>(pointers.bytes().data())), entries);

  char* directory = nullptr;
  if (!take_strings(text, {&directory, 1})) return false;
  if (!take_strings(text, table.subspan(1, arguments))) return false;
  if (!take_strings(text, table.subspan(1 + arguments + 1, variables))) return false;
  if (!text.empty()) return false;

  request.tty = (head.flags & base::agent::kStartTty) != 0;
  request.uid = head.uid;
  request.gid = head.gid;
  request.rows = head.rows;
  request.columns = head.columns;
  request.directory = *directory != '\0' ? directory : "/";
  request.arguments = &table[1];
  request.environment = &table[1 + arguments + 1];
  request.environment_count = variables;
  request.body = std::move(body);
  request.pointers = std::move(pointers);
  return true;
}

const char* StartRequest::variable(const char* name) const {
  const std::size_t length = std::strlen(name);
  for (char** entry = environment; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') return *entry + length + 1;
  }
  return nullptr;
}

}  // namespace mayfly::init
