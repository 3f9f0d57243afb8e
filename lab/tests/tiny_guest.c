// The smallest proof that /dev/kvm works: a real-mode guest writes one byte to a port and halts. Prints "K"
// and "halted".
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

int main(void) {
  static const uint8_t code[] = {0xb0, 'K', 0xe6, 0x10, 0xf4};  // mov al, 'K'; out 0x10, al; hlt
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  uint8_t* memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  memcpy(memory, code, sizeof code);
  struct kvm_userspace_memory_region region = {
      .guest_phys_addr = 0x1000, .memory_size = 4096, .userspace_addr = (uintptr_t)memory};
  ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
  int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  if (vcpu < 0) {
    perror("KVM");
    return 1;
  }
  size_t size = (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  struct kvm_run* run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  struct kvm_sregs segments;
  ioctl(vcpu, KVM_GET_SREGS, &segments);
  segments.cs.base = 0;
  segments.cs.selector = 0;
  ioctl(vcpu, KVM_SET_SREGS, &segments);
  struct kvm_regs registers = {.rip = 0x1000, .rflags = 2};
  ioctl(vcpu, KVM_SET_REGS, &registers);
  while (ioctl(vcpu, KVM_RUN, 0) == 0) {
    if (run->exit_reason == KVM_EXIT_IO) {
      putchar(((char*)run)[run->io.data_offset]);
    } else if (run->exit_reason == KVM_EXIT_HLT) {
      puts(" halted");
      return 0;
    } else {
      printf("unexpected exit %u\n", run->exit_reason);
      return 2;
    }
  }
  perror("KVM_RUN");
  return 1;
}
