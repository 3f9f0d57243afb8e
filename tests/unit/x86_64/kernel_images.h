// Small kernels whose headers a test may bend.
#pragma once

#include <asm/bootparam.h>
#include <elf.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vmm/x86_64/kernel_loader.h"

namespace mayfly::vmm::x86_64::test {

using Bytes = std::vector<std::byte>;

inline void put(Bytes& bytes, std::size_t offset, std::span<const std::byte> source) {
  if (bytes.size() < offset + source.size()) bytes.resize(offset + source.size());
  if (!source.empty()) std::memcpy(bytes.data() + offset, source.data(), source.size());
}

template <typename T>
void put_value(Bytes& bytes, std::size_t offset, const T& value) {
  put(bytes, offset, std::as_bytes(std::span(&value, 1)));
}

// An ELF file whose headers a test may bend before it asks for the bytes.
struct ElfImage {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
  std::vector<std::pair<std::size_t, Bytes>> contents;  // offset in the file, bytes
  std::size_t next_offset = 0x1000;

  ElfImage() {
    std::memcpy(&header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
  }

  Elf64_Phdr& add(std::uint32_t type, std::uint64_t address, Bytes content, std::uint64_t memory_size = 0) {
    Elf64_Phdr segment{};
    segment.p_type = type;
    segment.p_flags = PF_R | PF_X;
    segment.p_offset = next_offset;
    segment.p_paddr = address;
    segment.p_vaddr = 0xffffffff80000000 + address;
    segment.p_filesz = content.size();
    segment.p_memsz = memory_size == 0 ? content.size() : memory_size;
    segment.p_align = type == PT_NOTE ? 4 : 0x1000;
    contents.emplace_back(next_offset, std::move(content));
    next_offset += segment.p_filesz;
    segments.push_back(segment);
    header.e_phnum = static_cast<std::uint16_t>(segments.size());
    return segments.back();
  }

  [[nodiscard]] Bytes bytes() const {
    Bytes file;
    put_value(file, 0, header);
    put(file, sizeof(header), std::as_bytes(std::span(segments)));
    for (const auto& [offset, content] : contents) put(file, offset, content);
    return file;
  }
};

inline Bytes filled(std::size_t size, unsigned char value) {
  return Bytes(size, std::byte{value});
}

// One ELF note, padded to 4.
inline Bytes note(const std::string& name, std::uint32_t type, const Bytes& value) {
  Bytes bytes;
  const Elf64_Nhdr header{static_cast<std::uint32_t>(name.size() + 1),
                          static_cast<std::uint32_t>(value.size()), type};
  put_value(bytes, 0, header);
  put(bytes, bytes.size(), std::as_bytes(std::span(name.c_str(), name.size() + 1)));
  bytes.resize((bytes.size() + 3) / 4 * 4);
  put(bytes, bytes.size(), value);
  bytes.resize((bytes.size() + 3) / 4 * 4);
  return bytes;
}

inline Bytes linux_note() {
  return note("Linux", 0x101, filled(4, 0));
}

template <typename T>
Bytes pvh_note(T entry) {
  Bytes value;
  put_value(value, 0, entry);
  return note("Xen", 18, value);
}

// Two segments, the second with a bss, the first with the entry; both at least page-sized, not page-aligned.
inline ElfImage plain_elf() {
  ElfImage image;
  image.add(PT_LOAD, 0x1000000, filled(0x1800, 0x11));
  image.add(PT_LOAD, 0x1001800, filled(0x900, 0x22), 0x5000);
  image.header.e_entry = 0x1000010;
  return image;
}

// A bzImage with its setup header, which a test may bend.
struct BzImage {
  SetupHeader header{};
  Bytes payload = filled(0x3000, 0x33);
  std::uint8_t jump_offset = 0x6a;  // header up to 0x26c, as protocol 2.15 has it

  BzImage() {
    header.setup_sects = 2;
    header.boot_flag = 0xaa55;
    header.header = 0x53726448;
    header.version = 0x020f;
    header.loadflags = LOADED_HIGH;
    header.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G;
    header.syssize = static_cast<std::uint32_t>(payload.size() / 16);
    header.initrd_addr_max = 0x7fffffff;
    header.cmdline_size = 2047;
    header.kernel_alignment = 0x200000;
    header.relocatable_kernel = 1;
    header.pref_address = 0x1000000;
    header.init_size = 0x800000;
  }

  [[nodiscard]] Bytes bytes() const {
    const std::size_t setup = (header.setup_sects == 0 ? 5U : header.setup_sects + 1U) * 512;
    Bytes file = filled(setup, 0x44);
    put_value(file, 0x1f1, header);
    put_value(file, 0x200, std::uint8_t{0xeb});
    put_value(file, 0x201, jump_offset);
    put(file, setup, payload);
    return file;
  }
};

}  // namespace mayfly::vmm::x86_64::test
