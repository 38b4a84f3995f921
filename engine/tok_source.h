/* tok_source.h - a tokenizer from plain arrays: for tests, and for files that are not GGUF.
 *
 * Nothing of `src` is kept.  tokenizer_open() is this over what a GGUF file says.
 *
 * Thread: as tokenizer.h. */
#ifndef ENGINE_TOK_SOURCE_H
#define ENGINE_TOK_SOURCE_H

#include "engine/tok_vocab.h"
#include "engine/tokenizer.h"

struct tokenizer *tokenizer_open_source(const struct tok_source *src, struct status *st) MUST_CHECK;

#endif
