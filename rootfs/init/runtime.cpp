// What the compiler and the standard headers want of a C++ run time, without libstdc++: init has no
// exceptions, no type information and no streams, and the rest of the library would be most of its size.
#include <cstdlib>
#include <new>

#include "rootfs/init/console.h"

namespace std {
const nothrow_t nothrow{};
[[noreturn]] void __glibcxx_assert_fail(const char* file, int /*line*/, const char* function,
                                        const char* condition) noexcept {
  mayfly::init::complain({"broken: ", file, ": ", function, ": ", condition});
  abort();
}
}  // namespace std

void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  return std::malloc(size);
}
void operator delete(void* pointer) noexcept {
  std::free(pointer);
}
void operator delete(void* pointer, std::size_t /*size*/) noexcept {
  std::free(pointer);
}

extern "C" {
[[noreturn]] void __cxa_pure_virtual() {
  std::abort();
}
// Destructors of objects with static storage: init never returns from main.
int __cxa_atexit(void (* /*destroy*/)(void*), void* /*object*/, void* /*handle*/) {
  return 0;
}
void* __dso_handle = nullptr;
}
