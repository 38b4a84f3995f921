/* store_texts.h - the files of a checkpoint that are not weights: config.json, tokenizer, template.
 *
 * Thread: one. */
#ifndef ENGINE_STORE_TEXTS_H
#define ENGINE_STORE_TEXTS_H

#include <stddef.h>

#include "base/status.h"

struct model_file;

/* Has the folder `texts`, or `from` where that is NULL, a config.json that says nothing of
 * quantization? */
bool store_texts_check(const char *from, const char *texts, struct status *st) MUST_CHECK;
/* Says its config.json what the open GGUF file says?  CORRUPT names what differs. */
bool store_texts_match(const char *texts, const struct model_file *f, struct status *st) MUST_CHECK;
/* config.json with its quantization_config, and copies of the other files that are known. */
bool store_texts_put(const char *texts, int folder_fd, const char *config, size_t n_config,
                     struct status *st) MUST_CHECK;

#endif
