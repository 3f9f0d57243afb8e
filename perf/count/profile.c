/* A QEMU plugin that counts the guest's instructions: for each translated block that ran, its address and how many
   instructions it came to, into the file named by MAYFLY_PROFILE. The interface is declared here, in version 1, because
   Debian's QEMU has plugins and no header for them. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))

struct qemu_plugin_tb;
typedef uint64_t plugin_id;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation, void *counter, uint64_t amount);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

enum { kAddU64 = 0 };

struct block {
  struct block *next;
  uint64_t address, instructions;
};
static struct block *blocks;

static void on_translation(plugin_id id, struct qemu_plugin_tb *tb) {
  (void)id;
  struct block *block = calloc(1, sizeof *block);
  if (block == NULL) return;
  block->address = qemu_plugin_tb_vaddr(tb);
  block->next = blocks;
  blocks = block;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, kAddU64, &block->instructions, qemu_plugin_tb_n_insns(tb));
}

static void at_exit(plugin_id id, void *unused) {
  (void)id;
  (void)unused;
  const char *path = getenv("MAYFLY_PROFILE");
  FILE *file = path == NULL ? NULL : fopen(path, "w");
  if (file == NULL) return;
  for (const struct block *block = blocks; block != NULL; block = block->next)
    if (block->instructions != 0) fprintf(file, "%016lx %lu\n", block->address, block->instructions);
  fclose(file);
}

EXPORTED int qemu_plugin_version = 1;
EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
  (void)info;
  (void)argc;
  (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
  qemu_plugin_register_atexit_cb(id, at_exit, NULL);
  return 0;
}
