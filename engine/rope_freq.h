/* rope_freq.h - how fast each pair of dimensions turns, in radians a position.
 *
 * theta^(-2 i / dims), then what the checkpoint says about longer contexts: all positions
 * divided by one factor, or only the pairs that turn less than low_factor times in the context
 * the model was first trained for, with a ramp up to those that turn more than high_factor
 * times; and a factor for each pair, where the file brings a table of them.
 *
 * Thread: any; no state. */
#ifndef ENGINE_ROPE_FREQ_H
#define ENGINE_ROPE_FREQ_H

struct model_config;

/* factors: [rope_dims / 2] or NULL; inv_freq: [rope_dims / 2], may be factors */
void rope_freq_make(const struct model_config *cfg, const float *factors, float *inv_freq);
/* Those of local layers: their own base, and nothing for longer contexts, which they do not see. */
void rope_freq_make_local(const struct model_config *cfg, float *inv_freq);

#endif
