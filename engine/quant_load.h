/* quant_load.h - weights that are quantized while they are loaded.
 *
 * quant_load_apply() puts a weight of a scheme in the place of each one that the options name: its
 * source makes rows of codes when a device asks for them, from the rows of the file, of whatever
 * type they are there.  So nothing is held twice; only nested scales need a look at the whole
 * matrix before, in quant_load_prepare(), and keep 8 bytes of 16384 values from it.
 *
 * The rules: `quantize` is for the matrices of the layers, `quantize-head` for the embedding and
 * the output; a name in `quantize-skip` leaves alone every weight whose name has it somewhere.
 * Vectors are never quantized.
 *
 * Thread: one, at start; the sources' rows from any. */
#ifndef ENGINE_QUANT_LOAD_H
#define ENGINE_QUANT_LOAD_H

#include "base/buf.h"
#include "base/status.h"
#include "engine/weight.h"

struct bound;
struct engine_options;
struct model_file;
struct quant_load;

/* Options as schemes; either may be off. */
struct quant_choice {
    bool has_layers, has_head;
    struct scheme layers, head;
    const char *skip; /* names with commas between; "" = none */
};

/* BAD_INPUT names the option. */
bool quant_choice_read(struct quant_choice *c, const struct engine_options *o,
                       struct status *st) MUST_CHECK;
/* BAD_INPUT when a name to skip is part of no weight's: it is misspelt. */
bool quant_choice_check(const struct quant_choice *c, const struct model_file *f,
                        struct status *st) MUST_CHECK;
/* What becomes of a weight: its scheme, or NULL when it stays as it is in the file. */
const struct scheme *quant_choice_of(const struct quant_choice *c, const struct bound *b);

/* Replaces weights of f->bound, which owns the result.  Does nothing when the options are off.
 * Refused, by name: columns that do not fit the scheme, a weight that the checkpoint has quantized
 * in another way, and a name to skip that no weight has. */
bool quant_load_apply(struct model_file *f, const struct engine_options *o,
                      struct status *st) MUST_CHECK;
/* Before the first row is made.  False when a weight has a value that is not finite. */
bool quant_load_prepare(const struct model_file *f, struct status *st) MUST_CHECK;
/* After the last: were all values finite? */
bool quant_load_check(const struct model_file *f, struct status *st) MUST_CHECK;
void quant_load_close(struct quant_load *q); /* accepts NULL */

/* The weight as its file has it. */
const struct weight *quant_load_file_weight(const struct bound *b);

/* What was chosen, for people: the schemes, and the matrices that stay as they are. */
void quant_load_print(const struct model_file *f, struct buf *out);

#endif
