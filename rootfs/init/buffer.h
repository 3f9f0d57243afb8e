// Heap memory whose allocation may fail: PID 1 must not die because memory is short.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <utility>

namespace mayfly::init {

// Bytes.
class Buffer {
 public:
  Buffer() = default;
  // Not valid() when there was no memory. Bytes are not initialised: untouched pages cost nothing.
  static Buffer allocate(std::size_t size) {
    Buffer buffer;
    buffer.bytes_ = static_cast<char*>(std::malloc(size == 0 ? 1 : size));
    buffer.size_ = buffer.bytes_ != nullptr ? size : 0;
    return buffer;
  }
  ~Buffer() { std::free(bytes_); }
  Buffer(Buffer&& other) noexcept
      : bytes_(std::exchange(other.bytes_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] bool valid() const { return bytes_ != nullptr; }
  [[nodiscard]] std::span<char> bytes() { return {bytes_, size_}; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  char* bytes_ = nullptr;
  std::size_t size_ = 0;
};

// One object on the heap, or none. <memory> would bring half of the standard library's headers with it.
template <typename T>
class Owned {
 public:
  Owned() = default;
  // Empty when there was no memory.
  static Owned make() {
    Owned owned;
    owned.object_ = new (std::nothrow) T;
    return owned;
  }
  ~Owned() { delete object_; }
  Owned(Owned&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;

  explicit operator bool() const { return object_ != nullptr; }
  T* operator->() const { return object_; }
  [[nodiscard]] T* get() const { return object_; }

 private:
  T* object_ = nullptr;
};

}  // namespace mayfly::init
