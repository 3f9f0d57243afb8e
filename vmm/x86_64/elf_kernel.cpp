#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "vmm/x86_64/kernel_formats.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::Status;

// Linux has five; room for others', and a bound on the work.
constexpr std::uint16_t kMostProgramHeaders = 128;
constexpr std::uint64_t kLongestNotes = 64 * 1024;

struct MachineName {
  std::uint16_t machine;
  std::string_view name;
};
constexpr std::array kMachineNames = {
    MachineName{EM_AARCH64, "aarch64"}, MachineName{EM_ARM, "arm"},         MachineName{EM_386, "32-bit x86"},
    MachineName{EM_RISCV, "riscv"},     MachineName{EM_PPC64, "ppc64"},     MachineName{EM_PPC, "ppc"},
    MachineName{EM_S390, "s390x"},      MachineName{EM_MIPS, "mips"},       MachineName{258, "loongarch"},
    MachineName{EM_IA_64, "ia64"},      MachineName{EM_SPARCV9, "sparc64"},
};

std::string machine_name(std::uint16_t machine) {
  for (const MachineName& known : kMachineNames) {
    if (known.machine == machine) return std::string(known.name);
  }
  return fmt::format("machine type {}", machine);
}

// ELF-64 Object File Format, "File header".
Status check_header(const Elf64_Ehdr& header) {
  // The class and byte order decide where the other fields are, and e_machine's place is the same in both
  // classes.
  const bool big_endian = header.e_ident[EI_DATA] == ELFDATA2MSB;
  const std::uint16_t machine = big_endian ? __builtin_bswap16(header.e_machine) : header.e_machine;
  if (machine != EM_X86_64) return base::fail("is for {}, not x86-64", machine_name(machine));
  if (header.e_ident[EI_CLASS] != ELFCLASS64)
    return base::fail("is not 64-bit ELF: an x86-64 kernel is needed");
  if (header.e_ident[EI_DATA] != ELFDATA2LSB) return base::fail("is damaged: its byte order is not x86-64's");
  if (header.e_ident[EI_VERSION] != EV_CURRENT) return base::fail("is damaged: unknown ELF version");
  if (header.e_type == ET_REL) return base::fail("is an object file or kernel module, not a linked kernel");
  if (header.e_type == ET_CORE) return base::fail("is a core dump");
  if (header.e_type != ET_EXEC && header.e_type != ET_DYN) {
    return base::fail("is damaged: unknown ELF file type {}", header.e_type);
  }
  if (header.e_phnum == 0) return base::fail("is damaged: it has no program headers");
  if (header.e_phnum > kMostProgramHeaders) {
    return base::fail("has {} program headers; at most {} are possible", header.e_phnum, kMostProgramHeaders);
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return base::fail("is damaged: its program headers are {} bytes long, not {}", header.e_phentsize,
                      sizeof(Elf64_Phdr));
  }
  return {};
}

base::Result<std::vector<Elf64_Phdr>> read_program_headers(const ImageFile& file, const Elf64_Ehdr& header) {
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  TRY(file.read(header.e_phoff, std::as_writable_bytes(std::span(headers)), "the program header table"));
  return headers;
}

// The segments to load, by ascending address, each checked, none overlapping another.
base::Result<std::vector<Elf64_Phdr>> loadable_segments(const base::GuestMemory& memory,
                                                        const ImageFile& file,
                                                        const std::vector<Elf64_Phdr>& headers) {
  std::vector<Elf64_Phdr> segments;
  for (const Elf64_Phdr& segment : headers) {
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_filesz > segment.p_memsz) {
      return base::fail("is damaged: the segment at {:#x} has {:#x} bytes in the file but {:#x} in memory",
                        segment.p_paddr, segment.p_filesz, segment.p_memsz);
    }
    if (segment.p_memsz == 0) continue;
    if (!file.contains(segment.p_offset, segment.p_filesz)) {
      return base::fail(
          "is truncated: the segment at {:#x} is {:#x} bytes at offset {:#x}, the file has {:#x}",
          segment.p_paddr, segment.p_filesz, segment.p_offset, file.size());
    }
    TRY(check_kernel_place(memory, segment.p_paddr, segment.p_memsz));
    segments.push_back(segment);
  }
  if (segments.empty()) return base::fail("is damaged: it has nothing to load");
  std::ranges::sort(segments, {}, &Elf64_Phdr::p_paddr);
  for (std::size_t i = 1; i < segments.size(); ++i) {
    const Elf64_Phdr& before = segments[i - 1];
    if (segments[i].p_paddr < before.p_paddr + before.p_memsz) {
      return base::fail("is damaged: its segments {:#x} + {:#x} and {:#x} + {:#x} overlap", before.p_paddr,
                        before.p_memsz, segments[i].p_paddr, segments[i].p_memsz);
    }
  }
  return segments;
}

struct Notes {
  bool linux_kernel = false;
  std::optional<std::uint64_t> pvh_entry;
};

constexpr std::string_view kLinuxNote{"Linux\0", 6};
constexpr std::string_view kXenNote{"Xen\0", 4};
constexpr std::uint32_t kXenPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY

Status take_note(Notes& notes, std::string_view name, std::uint32_t type, std::span<const std::byte> value) {
  if (name == kLinuxNote) notes.linux_kernel = true;
  if (name != kXenNote || type != kXenPhys32Entry || notes.pvh_entry) return {};
  if (value.size() != 4 && value.size() != 8) {
    return base::fail("is damaged: its PVH entry has {} bytes", value.size());
  }
  std::uint64_t entry = 0;
  std::memcpy(&entry, value.data(), value.size());
  notes.pvh_entry = entry;
  return {};
}

// ELF-64 Object File Format, "Note sections", with the padding that files really have: what p_align says.
Status scan_notes(Notes& notes, std::span<const std::byte> bytes, std::uint64_t alignment) {
  const auto padded = [alignment](std::uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
  while (bytes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header{};
    std::memcpy(&header, bytes.data(), sizeof(header));
    // Sums of 32-bit numbers, in 64 bits.
    const std::uint64_t value_at = padded(sizeof(header) + std::uint64_t{header.n_namesz});
    const std::uint64_t value_end = value_at + header.n_descsz;
    if (value_end > bytes.size())
      return base::fail("is damaged: an ELF note runs over the end of its segment");
    std::string name(header.n_namesz, '\0');
    std::memcpy(name.data(), bytes.data() + sizeof(header), name.size());
    TRY(take_note(notes, name, header.n_type, bytes.subspan(value_at, header.n_descsz)));
    bytes = bytes.subspan(std::min<std::uint64_t>(padded(value_end), bytes.size()));
  }
  return {};
}

base::Result<Notes> read_notes(const ImageFile& file, const std::vector<Elf64_Phdr>& headers) {
  Notes notes;
  for (const Elf64_Phdr& segment : headers) {
    if (segment.p_type != PT_NOTE) continue;
    if (segment.p_filesz > kLongestNotes) {
      return base::fail("has {} bytes of ELF notes; at most {} are possible", segment.p_filesz,
                        kLongestNotes);
    }
    std::vector<std::byte> bytes(segment.p_filesz);
    TRY(file.read(segment.p_offset, bytes, "the notes"));
    TRY(scan_notes(notes, bytes, segment.p_align == 8 ? 8 : 4));
  }
  return notes;
}

Status check_entry(const std::vector<Elf64_Phdr>& segments, std::uint64_t entry) {
  for (const Elf64_Phdr& segment : segments) {
    if (entry >= segment.p_paddr && entry - segment.p_paddr < segment.p_memsz) return {};
  }
  return base::fail("is damaged: its entry point {:#x} is in none of its segments", entry);
}

}  // namespace

base::Result<LoadedKernel> load_elf(base::GuestMemory& memory, const ImageFile& file) {
  const auto header = TRY(file.read<Elf64_Ehdr>(0, "the ELF header"));
  TRY(check_header(header));
  const std::vector<Elf64_Phdr> headers = TRY(read_program_headers(file, header));
  const std::vector<Elf64_Phdr> segments = TRY(loadable_segments(memory, file, headers));
  const Notes notes = TRY(read_notes(file, headers));

  // Linux offers both entries. The 64-bit one is the shorter way: it skips the 32-bit prologue, which builds
  // page tables of its own and turns PVH's structures into boot_params. Others that have a PVH note mean it.
  LoadedKernel kernel;
  kernel.is_linux = notes.linux_kernel || notes.pvh_entry;
  const bool pvh = notes.pvh_entry && !notes.linux_kernel;
  kernel.protocol = pvh ? BootProtocol::kPvh : BootProtocol::kLinux64;
  kernel.entry = base::GuestAddress(pvh ? *notes.pvh_entry : header.e_entry);
  TRY(check_entry(segments, kernel.entry.value()));
  kernel.end = base::GuestAddress(segments.back().p_paddr + segments.back().p_memsz);

  const base::GuestAddress start(segments.front().p_paddr);
  memory.advise_huge_pages(start, kernel.end.value() - start.value());
  for (const Elf64_Phdr& segment : segments) {
    // What is beyond the file's part, the bss, is zero in fresh memory.
    TRY(file.read_to_guest(segment.p_offset, memory, base::GuestAddress(segment.p_paddr), segment.p_filesz,
                           "a segment"));
  }
  return kernel;
}

}  // namespace mayfly::vmm::x86_64
