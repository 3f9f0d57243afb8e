// Machine code for tiny guests, put together one instruction at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace mayfly::test {

// Only plain moves, arithmetic, jumps, in/out and hlt: what a KVM that emulates a guest's kernel code knows
// too. The encodings are for 64-bit mode unless the comment says otherwise.
class Code {
 public:
  using Label = std::size_t;  // an offset into the code

  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return bytes_; }
  [[nodiscard]] Label here() const { return bytes_.size(); }
  void raw(std::initializer_list<std::uint8_t> bytes) { bytes_.insert(bytes_.end(), bytes); }

  void mov_al(std::uint8_t value) { raw({0xb0, value}); }          // mov al, imm8 (any mode)
  void mov_eax(std::uint32_t value) { raw({0xb8}), le32(value); }  // mov eax, imm32
  void mov_ecx(std::uint32_t value) { raw({0xb9}), le32(value); }  // mov ecx, imm32
  void mov_edi(std::uint32_t value) { raw({0xbf}), le32(value); }  // mov edi, imm32: clears the upper half
  void mov_esi(std::uint32_t value) { raw({0xbe}), le32(value); }  // mov esi, imm32
  void mov_dx(std::uint16_t value) { raw({0x66, 0xba}), le16(value); }   // mov dx, imm16
  void mov_rdi(std::uint64_t value) { raw({0x48, 0xbf}), le64(value); }  // mov rdi, imm64

  void out_al(std::uint16_t port) { mov_dx(port), raw({0xee}); }   // out dx, al
  void out_eax(std::uint16_t port) { mov_dx(port), raw({0xef}); }  // out dx, eax
  void in_al(std::uint16_t port) { mov_dx(port), raw({0xec}); }    // in al, dx
  void in_eax(std::uint16_t port) { mov_dx(port), raw({0xed}); }   // in eax, dx
  void out(std::uint16_t port, std::uint8_t value) { mov_al(value), out_al(port); }

  void store32(std::uint32_t offset, std::uint32_t value) {  // mov dword [rdi + offset], imm32
    raw({0xc7, 0x87}), le32(offset), le32(value);
  }
  void store16(std::uint32_t offset, std::uint16_t value) {  // mov word [rdi + offset], imm16
    raw({0x66, 0xc7, 0x87}), le32(offset), le16(value);
  }
  void store8(std::uint32_t offset, std::uint8_t value) {  // mov byte [rdi + offset], imm8
    raw({0xc6, 0x87}), le32(offset), raw({value});
  }
  void load_eax(std::uint32_t offset) { raw({0x8b, 0x87}), le32(offset); }       // mov eax, [rdi + offset]
  void load_al(std::uint32_t offset) { raw({0x8a, 0x87}), le32(offset); }        // mov al, [rdi + offset]
  void load_ax(std::uint32_t offset) { raw({0x66, 0x8b, 0x87}), le32(offset); }  // mov ax, [rdi + offset]
  void store_eax(std::uint32_t offset) { raw({0x89, 0x87}), le32(offset); }      // mov [rdi + offset], eax

  void test_al(std::uint8_t mask) { raw({0xa8, mask}); }                // test al, imm8
  void cmp_al(std::uint8_t value) { raw({0x3c, value}); }               // cmp al, imm8
  void cmp_ax(std::uint16_t value) { raw({0x66, 0x3d}), le16(value); }  // cmp ax, imm16
  void cmp_eax(std::uint32_t value) { raw({0x3d}), le32(value); }       // cmp eax, imm32
  void hlt() { raw({0xf4}); }
  void ud2() { raw({0x0f, 0x0b}); }

  void jmp(Label to) { raw({0xe9}), le32(distance(to)); }        // jmp rel32
  void je(Label to) { raw({0x0f, 0x84}), le32(distance(to)); }   // je rel32
  void jne(Label to) { raw({0x0f, 0x85}), le32(distance(to)); }  // jne rel32
  // A jump whose target land() sets later.
  [[nodiscard]] Label jne_ahead() { return raw({0x0f, 0x85}), le32(0), here(); }
  [[nodiscard]] Label je_ahead() { return raw({0x0f, 0x84}), le32(0), here(); }
  void land(Label jump) {
    const auto ahead = static_cast<std::uint32_t>(here() - jump);
    for (unsigned i = 0; i < 4; ++i) bytes_[jump - 4 + i] = static_cast<std::uint8_t>(ahead >> (8 * i));
  }

  void stop() {  // hlt, for ever
    const Label again = here();
    hlt();
    jmp(again);
  }
  void say(std::string_view text) {  // on the serial port
    for (const char c : text) out(0x3f8, static_cast<std::uint8_t>(c));
  }
  void say_al() { out_al(0x3f8); }
  // The boot page tables map RAM only. This maps the 2 MiB at `virtual_address` (not in the first GiB) to
  // those at `physical_address`, by a page directory of the guest's own for that GiB.
  void map(std::uint64_t virtual_address, std::uint64_t physical_address) {
    constexpr std::uint32_t kPointers = 0xa000;
    constexpr std::uint32_t kDirectories = 0x10000;
    constexpr std::uint32_t kWritablePresent = 0x03;
    constexpr std::uint32_t kLarge = 0x80;
    const auto gib = static_cast<std::uint32_t>(virtual_address >> 30U);
    const std::uint32_t directory = kDirectories + gib * 0x1000;
    mov_edi(directory + static_cast<std::uint32_t>((virtual_address >> 21U) & 511U) * 8);
    store32(4, static_cast<std::uint32_t>(physical_address >> 32U));
    store32(0, static_cast<std::uint32_t>(physical_address) | kLarge | kWritablePresent);
    mov_edi(kPointers + gib * 8);
    store32(4, 0);
    store32(0, directory | kWritablePresent);
  }
  void map_devices() {
    for (const std::uint64_t address : {0xc0000000ULL, 0xd0000000ULL, 0xfee00000ULL}) map(address, address);
  }
  void reset() { out(0x64, 0xfe); }  // the keyboard controller's reset pulse
  // Writes the bytes `what` to `address`.
  void place(std::uint32_t address, const std::vector<std::uint8_t>& what) {
    mov_edi(address);
    for (std::size_t i = 0; i < what.size(); ++i) store8(static_cast<std::uint32_t>(i), what[i]);
  }

 private:
  // From the end of the 32-bit displacement that is about to be written.
  [[nodiscard]] std::uint32_t distance(Label to) const {
    return static_cast<std::uint32_t>(to - (here() + 4));
  }
  template <typename T>
  void little_endian(T value) {
    for (unsigned i = 0; i < sizeof(T); ++i) bytes_.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
  }
  void le16(std::uint16_t value) { little_endian(value); }
  void le32(std::uint32_t value) { little_endian(value); }
  void le64(std::uint64_t value) { little_endian(value); }

  std::vector<std::uint8_t> bytes_;
};

}  // namespace mayfly::test
