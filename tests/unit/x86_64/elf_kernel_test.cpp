#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {
namespace {

using namespace test;
using Catch::Contains;

std::uint8_t byte_at(const GuestMemory& memory, std::uint64_t address) {
  return *memory.read<std::uint8_t>(GuestAddress(address));
}

}  // namespace

TEST_CASE("an ELF kernel's segments are put in place, and nothing around them") {
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, plain_elf().bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->entry == GuestAddress(0x1000010));
  CHECK(kernel->protocol == BootProtocol::kLinux64);
  CHECK(kernel->end == GuestAddress(0x1006800));
  CHECK_FALSE(kernel->is_linux);
  CHECK_FALSE(kernel->setup_header.has_value());
  CHECK(byte_at(memory, 0xffffff) == 0);
  CHECK(byte_at(memory, 0x1000000) == 0x11);
  CHECK(byte_at(memory, 0x10017ff) == 0x11);
  CHECK(byte_at(memory, 0x1001800) == 0x22);
  CHECK(byte_at(memory, 0x10020ff) == 0x22);
  CHECK(byte_at(memory, 0x1002100) == 0);
  CHECK(byte_at(memory, 0x10067ff) == 0);
}

TEST_CASE("order of segments, empty segments and position independence do not matter") {
  ElfImage image;
  image.header.e_type = ET_DYN;
  image.add(PT_LOAD, 0x1400000, filled(0x10, 2));
  image.add(PT_LOAD, 0, {});
  image.add(PT_LOAD, 0x100000, filled(0x10, 1));
  image.add(PT_LOAD, 0x2000000, {}, 0x1000);
  image.header.e_entry = 0x100000;
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->end == GuestAddress(0x2001000));
  CHECK(byte_at(memory, 0x1400000) == 2);
  CHECK(byte_at(memory, 0x100000) == 1);
}

TEST_CASE("Linux is entered in 64-bit mode, with or without a PVH note") {
  GuestMemory memory = make_memory(64 * kMib);
  ElfImage image = plain_elf();
  Bytes notes = linux_note();
  SECTION("without") {}
  SECTION("with") {
    put(notes, notes.size(), pvh_note<std::uint64_t>(0x1000020));
  }
  image.add(PT_NOTE, 0, notes);
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->is_linux);
  CHECK(kernel->protocol == BootProtocol::kLinux64);
  CHECK(kernel->entry == GuestAddress(0x1000010));
}

TEST_CASE("another system with a PVH note is entered there") {
  GuestMemory memory = make_memory(64 * kMib);
  ElfImage image = plain_elf();
  image.header.e_entry = 0xffffffff81000000;
  SECTION("32 bits") {
    image.add(PT_NOTE, 0, pvh_note<std::uint32_t>(0x1000020));
  }
  SECTION("64 bits") {
    image.add(PT_NOTE, 0, pvh_note<std::uint64_t>(0x1000020));
  }
  SECTION("after other notes, in a segment aligned to 8") {
    Bytes notes = note("GNU", 5, filled(16, 0));
    put(notes, notes.size(), pvh_note<std::uint64_t>(0x1000020));
    image.add(PT_NOTE, 0, notes).p_align = 8;
  }
  SECTION("in the second note segment; the first entry counts") {
    image.add(PT_NOTE, 0, note("GNU", 3, filled(20, 7)));
    Bytes notes = pvh_note<std::uint64_t>(0x1000020);
    put(notes, notes.size(), pvh_note<std::uint64_t>(0x1000030));
    image.add(PT_NOTE, 0, notes);
  }
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->is_linux);
  CHECK(kernel->protocol == BootProtocol::kPvh);
  CHECK(kernel->entry == GuestAddress(0x1000020));
}

TEST_CASE("an ELF kernel cut off anywhere is refused") {
  ElfImage image = plain_elf();
  image.add(PT_NOTE, 0, linux_note());
  const Bytes whole = image.bytes();
  REQUIRE(refusal(whole).empty());
  GuestMemory memory = make_memory(64 * kMib);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const auto kernel = load_bytes(memory, std::span(whole).first(length));
    INFO("length " << length);
    REQUIRE_FALSE(kernel.has_value());
    REQUIRE_THAT(kernel.error().message, Catch::StartsWith("kernel test.img "));
  }
}

TEST_CASE("an ELF file for something else is refused by name") {
  ElfImage image = plain_elf();
  SECTION("aarch64") {
    image.header.e_machine = EM_AARCH64;
    CHECK(refusal(image.bytes()) == "kernel test.img is for aarch64, not x86-64");
  }
  SECTION("32-bit x86") {
    image.header.e_machine = EM_386;
    image.header.e_ident[EI_CLASS] = ELFCLASS32;
    CHECK_THAT(refusal(image.bytes()), Contains("32-bit x86"));
  }
  SECTION("s390x, big-endian") {
    image.header.e_machine = __builtin_bswap16(EM_S390);
    image.header.e_ident[EI_DATA] = ELFDATA2MSB;
    CHECK_THAT(refusal(image.bytes()), Contains("is for s390x, not x86-64"));
  }
  SECTION("a machine nobody knows") {
    image.header.e_machine = 0x1234;
    CHECK_THAT(refusal(image.bytes()), Contains("machine type 4660"));
  }
  SECTION("x32") {
    image.header.e_ident[EI_CLASS] = ELFCLASS32;
    CHECK_THAT(refusal(image.bytes()), Contains("64-bit"));
  }
  SECTION("x86-64 with the wrong byte order") {
    image.header.e_machine = __builtin_bswap16(EM_X86_64);
    image.header.e_ident[EI_DATA] = ELFDATA2MSB;
    CHECK_THAT(refusal(image.bytes()), Contains("byte order"));
  }
  SECTION("no byte order") {
    image.header.e_ident[EI_DATA] = ELFDATANONE;
    CHECK_THAT(refusal(image.bytes()), Contains("byte order"));
  }
  SECTION("another ELF version") {
    image.header.e_ident[EI_VERSION] = 2;
    CHECK_THAT(refusal(image.bytes()), Contains("version"));
  }
  SECTION("kernel module") {
    image.header.e_type = ET_REL;
    CHECK_THAT(refusal(image.bytes()), Contains("module"));
  }
  SECTION("core dump") {
    image.header.e_type = ET_CORE;
    CHECK_THAT(refusal(image.bytes()), Contains("core dump"));
  }
  SECTION("unknown type") {
    image.header.e_type = 99;
    CHECK_THAT(refusal(image.bytes()), Contains("type 99"));
  }
}

TEST_CASE("absurd program header tables are refused") {
  ElfImage image = plain_elf();
  SECTION("none") {
    image.header.e_phnum = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("no program headers"));
  }
  SECTION("too many") {
    image.header.e_phnum = 129;
    CHECK_THAT(refusal(image.bytes()), Contains("129 program headers"));
  }
  SECTION("the most an ELF file can count") {
    image.header.e_phnum = PN_XNUM;
    CHECK_THAT(refusal(image.bytes()), Contains("65535 program headers"));
  }
  SECTION("headers of another size") {
    image.header.e_phentsize = 55;
    CHECK_THAT(refusal(image.bytes()), Contains("55 bytes long"));
  }
  SECTION("headers of no size") {
    image.header.e_phentsize = 0;
    CHECK_FALSE(refusal(image.bytes()).empty());
  }
  SECTION("beyond the file") {
    image.header.e_phoff = 1U << 20U;
    CHECK_THAT(refusal(image.bytes()), Contains("program header table"));
  }
  SECTION("at an offset that overflows with their size") {
    image.header.e_phoff = ~std::uint64_t{0} - 8;
    CHECK_THAT(refusal(image.bytes()), Contains("program header table"));
  }
}

TEST_CASE("segments that cannot be loaded are refused") {
  ElfImage image = plain_elf();
  Elf64_Phdr& segment = image.segments.at(1);
  SECTION("overlap by one byte") {
    segment.p_paddr = 0x10017ff;
    CHECK_THAT(refusal(image.bytes()), Contains("overlap"));
  }
  SECTION("the same place twice") {
    segment.p_paddr = 0x1000000;
    CHECK_THAT(refusal(image.bytes()), Contains("overlap"));
  }
  SECTION("overlap by bss only") {
    segment.p_paddr = 0xffc000;
    CHECK_THAT(refusal(image.bytes()), Contains("overlap"));
  }
  SECTION("below 1 MiB") {
    segment.p_paddr = 0xff000;
    CHECK_THAT(refusal(image.bytes()), Contains("from 0x100000 up"));
  }
  SECTION("at zero") {
    segment.p_paddr = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("from 0x100000 up"));
  }
  SECTION("in the gap for devices") {
    segment.p_paddr = 0xc0000000;
    CHECK_THAT(refusal(image.bytes()), Contains("below 0xc0000000"));
  }
  SECTION("into the gap by one byte") {
    segment.p_paddr = 0xc0000000 - segment.p_memsz + 1;
    CHECK_THAT(refusal(image.bytes()), Contains("below 0xc0000000"));
  }
  SECTION("above 4 GiB") {
    segment.p_paddr = 0x100000000;
    CHECK_FALSE(refusal(image.bytes()).empty());
  }
  SECTION("beyond the machine's memory, by one byte") {
    segment.p_paddr = 64 * kMib - segment.p_memsz + 1;
    CHECK_THAT(refusal(image.bytes()), Contains("it needs 65 MiB, the machine has 64"));
  }
  SECTION("beyond all addresses") {
    segment.p_paddr = ~std::uint64_t{0} - 0x800;
    CHECK_THAT(refusal(image.bytes()), Contains("beyond all addresses"));
  }
  SECTION("a size beyond all addresses") {
    segment.p_memsz = ~std::uint64_t{0};
    CHECK_THAT(refusal(image.bytes()), Contains("beyond all addresses"));
  }
  SECTION("more in the file than in memory") {
    segment.p_memsz = segment.p_filesz - 1;
    CHECK_THAT(refusal(image.bytes()), Contains("in the file"));
  }
  SECTION("an offset that overflows with the size") {
    segment.p_offset = ~std::uint64_t{0} - 0x100;
    CHECK_THAT(refusal(image.bytes()), Contains("truncated"));
  }
  SECTION("nothing to load") {
    for (Elf64_Phdr& each : image.segments) each.p_type = PT_DYNAMIC;
    CHECK_THAT(refusal(image.bytes()), Contains("nothing to load"));
  }
  SECTION("only segments without size") {
    for (Elf64_Phdr& each : image.segments) each.p_filesz = each.p_memsz = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("nothing to load"));
  }
}

TEST_CASE("a kernel may fill memory to its last byte") {
  ElfImage image = plain_elf();
  image.segments.at(1).p_paddr = 64 * kMib - image.segments.at(1).p_memsz;
  CHECK(refusal(image.bytes()).empty());
}

TEST_CASE("an entry outside the kernel is refused") {
  ElfImage image = plain_elf();
  SECTION("before") {
    image.header.e_entry = 0xffffff;
  }
  SECTION("after") {
    image.header.e_entry = 0x1006800;
  }
  SECTION("zero") {
    image.header.e_entry = 0;
  }
  SECTION("a virtual address") {
    image.header.e_entry = 0xffffffff81000010;
  }
  SECTION("PVH, outside") {
    image.add(PT_NOTE, 0, pvh_note<std::uint32_t>(0x900000));
  }
  SECTION("PVH, with high bits") {
    image.add(PT_NOTE, 0, pvh_note<std::uint64_t>(0x100001000010));
  }
  CHECK_THAT(refusal(image.bytes()), Contains("entry point"));
}

TEST_CASE("damaged notes are refused") {
  ElfImage image = plain_elf();
  Bytes notes = linux_note();
  SECTION("name too long") {
    put_value(notes, 0, std::uint32_t{0xffffffff});
    image.add(PT_NOTE, 0, notes);
    CHECK_THAT(refusal(image.bytes()), Contains("note"));
  }
  SECTION("value too long") {
    put_value(notes, 4, std::uint32_t{0xffffffff});
    image.add(PT_NOTE, 0, notes);
    CHECK_THAT(refusal(image.bytes()), Contains("note"));
  }
  SECTION("value longer than the segment by one byte") {
    put_value(notes, 4, std::uint32_t{5});
    image.add(PT_NOTE, 0, notes);
    CHECK_THAT(refusal(image.bytes()), Contains("note"));
  }
  SECTION("PVH entry of an odd size") {
    image.add(PT_NOTE, 0, note("Xen", 18, filled(3, 0)));
    CHECK_THAT(refusal(image.bytes()), Contains("3 bytes"));
  }
  SECTION("absurdly many") {
    image.add(PT_NOTE, 0, filled(64 * 1024 + 4, 0));
    CHECK_THAT(refusal(image.bytes()), Contains("at most 65536"));
  }
  SECTION("beyond the file") {
    image.add(PT_NOTE, 0, notes).p_offset = 0x100000;
    CHECK_THAT(refusal(image.bytes()), Contains("truncated"));
  }
  SECTION("a rest too short for a note is padding") {
    put(notes, notes.size(), filled(11, 0xff));
    image.add(PT_NOTE, 0, notes);
    CHECK(refusal(image.bytes()).empty());
  }
}

TEST_CASE("a value that is not padded at the end of the segment is still read") {
  ElfImage image = plain_elf();
  Bytes notes = note("Linux", 0x100, filled(1, 0));
  notes.resize(notes.size() - 3);
  image.add(PT_NOTE, 0, notes);
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->is_linux);
}

TEST_CASE("any single corrupted header byte is survived") {
  const Bytes whole = [] {
    ElfImage image = plain_elf();
    image.add(PT_NOTE, 0, pvh_note<std::uint32_t>(0x1000020));
    return image.bytes();
  }();
  const std::size_t headers = sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr);
  GuestMemory memory = make_memory(64 * kMib);
  for (std::size_t i = 0; i < headers; ++i) {
    for (const std::uint8_t value : std::initializer_list<std::uint8_t>{0x00, 0x01, 0x7f, 0x80, 0xff}) {
      Bytes bent = whole;
      bent.at(i) = std::byte{value};
      const auto kernel = load_bytes(memory, bent);
      if (kernel) CHECK(kernel->end.value() <= 64 * kMib);
    }
  }
}

}  // namespace mayfly::vmm::x86_64
