/* Counts the instructions that an emulated AArch64 program executes, by class: a QEMU plugin (API version 1, QEMU 4.2
 * to 8). A region begins where the program makes the system call 31337 with 0 and ends where it makes it with 1; then
 * one line of JSON goes to the file that EDGEBUILD_COUNTS names. One thread is counted right; several would race.
 *
 * The declarations are those of qemu-plugin.h as documented; encodings are from the Arm Architecture Reference Manual
 * for A-profile, chapter C4 (mask and value of the fixed bits). */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum plugin_op { PLUGIN_ADD };
typedef void (*translate_callback)(plugin_id, struct qemu_plugin_tb *);
typedef void (*syscall_callback)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translate_callback);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, syscall_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))
#define MARK 31337

enum kind { DOT, MATRIX, FMA_F32, FMA_F16, WIDENING, SVE, VECTOR, MEMORY, BRANCH, OTHER, KINDS };
static const char *const NAMES[KINDS] = {"int8_dot",      "int8_or_bf16_matrix", "fma_f32", "fma_f16", "int_widening",
                                         "sve",           "other_vector",        "memory",  "branch",  "other"};

/* The first pattern that fits counts; broad ones come last. */
static const struct {
    uint32_t mask, value;
    enum kind kind;
} PATTERNS[] = {
    {0x9FE0FC00, 0x0E809400, DOT},      /* SDOT, UDOT (vector) */
    {0x9FC0F400, 0x0F80E000, DOT},      /* SDOT, UDOT (by element) */
    {0xBFE0FC00, 0x0E809C00, DOT},      /* USDOT (vector) */
    {0xBF40F400, 0x0F00F000, DOT},      /* USDOT, SUDOT (by element) */
    {0xDFE0F400, 0x4E80A400, MATRIX},   /* SMMLA, UMMLA, USMMLA */
    {0xFFE0FC00, 0x6E40EC00, MATRIX},   /* BFMMLA */
    {0xBFE0FC00, 0x2E40FC00, MATRIX},   /* BFDOT */
    {0xBFA0FC00, 0x0E20CC00, FMA_F32},  /* FMLA (vector), single and double */
    {0xBF80F400, 0x0F801000, FMA_F32},  /* FMLA (by element), single and double */
    {0xBFE0FC00, 0x0E400C00, FMA_F16},  /* FMLA (vector), half */
    {0xBFC0F400, 0x0F001000, FMA_F16},  /* FMLA (by element), half */
    {0x9F20FC00, 0x0E20C000, WIDENING}, /* SMULL, UMULL (vector) */
    {0x9F20FC00, 0x0E208000, WIDENING}, /* SMLAL, UMLAL (vector) */
    {0x9F00F400, 0x0F002000, WIDENING}, /* SMLAL, UMLAL (by element) */
    {0x9F3FFC00, 0x0E206800, WIDENING}, /* SADALP, UADALP */
    {0x1E000000, 0x04000000, SVE},
    {0x0E000000, 0x0E000000, VECTOR},
    {0x0A000000, 0x08000000, MEMORY},
    {0x1C000000, 0x14000000, BRANCH},
};

static uint64_t counted[KINDS], before[KINDS];

static enum kind kind_of(uint32_t word) {
    for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++)
        if ((word & PATTERNS[i].mask) == PATTERNS[i].value) return PATTERNS[i].kind;
    return OTHER;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t found[KINDS] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found[kind_of(word)]++;
    }
    for (int kind = 0; kind < KINDS; kind++)
        if (found[kind]) qemu_plugin_register_vcpu_tb_exec_inline(block, PLUGIN_ADD, &counted[kind], found[kind]);
}

static void report(void) {
    const char *path = getenv("EDGEBUILD_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(file, "%s\"%s\": %" PRIu64, kind ? ", " : "{", NAMES[kind], counted[kind] - before[kind]);
    fputs("}\n", file);
    fclose(file);
}

static void marked(plugin_id id, unsigned cpu, int64_t number, uint64_t end, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g) {
    if (number != MARK) return;
    if (end)
        report();
    else
        memcpy(before, counted, sizeof before);
}

EXPORTED int qemu_plugin_version = 1;

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, marked);
    return 0;
}
