/* arch_table.c - the model families this build knows: one line each. */
#include "engine/arch.h"

extern const struct arch arch_llama, arch_qwen2, arch_gemma3;

const struct arch *const arch_all[] = {&arch_llama, &arch_qwen2, &arch_gemma3, NULL};
