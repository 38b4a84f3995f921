/* isa.h - which instruction sets a processor has, and which of them serves it best.
 *
 * The choice is a pure function of what the processor and the operating system say of themselves,
 * never of a measurement: the bits of an answer must not differ from start to start.
 *
 * Thread: any. */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

/* Each has those before it, but AMX need not have AVX512BF16.  AMX gives the bits of AVX512VNNI. */
enum isa { ISA_SCALAR, ISA_AVX2, ISA_AVX512, ISA_AVX512VNNI, ISA_AVX512BF16, ISA_AMX, ISA_N };

const char *isa_name(enum isa isa);

struct cpu_words { /* as CPUID has them; zeros where a leaf is missing */
    char vendor[13];
    uint32_t ecx1, ebx7, ecx7, edx7;
    uint32_t eax7_1;
    uint64_t xcr0;    /* the registers that the operating system saves */
    bool may_use_amx; /* it was asked, and agreed */
};

/* Reads the words of this processor; asks the operating system for AMX, of which it saves 8 KiB. */
struct cpu_words cpu_words_read(void);

bool isa_has(const struct cpu_words *w, enum isa isa);

/* The best that is at most `most`.  Where AVX512BF16 exists and is slow (everything but AMD: an
 * Intel core does 16 products of it in the time of 32 in float), it must be named to be chosen. */
enum isa isa_choose(const struct cpu_words *w, enum isa most);

#endif
