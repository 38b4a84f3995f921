#include "engine/rope_freq.h"

#include <math.h>

#include "engine/model.h"

/* What is left of a frequency that turns `turns` times in the first context: 1 = all of it. */
static double keep(const struct model_config *cfg, double turns)
{
    const double low = (double)cfg->rope_low_factor, high = (double)cfg->rope_high_factor;
    if (turns < low)
        return 0;
    return turns > high ? 1 : (turns - low) / (high - low);
}

/* In double: at long contexts a position multiplies the error. */
static double base_freq(float theta, int i, int dims)
{
    return pow((double)theta, -2.0 * i / dims);
}

void rope_freq_make(const struct model_config *cfg, const float *factors, float *inv_freq)
{
    const double full_turn = 6.283185307179586;
    for (int i = 0; i < cfg->rope_dims / 2; i++) {
        const double f =
            base_freq(cfg->rope_theta, i, cfg->rope_dims) / (factors ? (double)factors[i] : 1.0);
        const double slow = f / (double)cfg->rope_scaling;
        const double part =
            cfg->rope_context > 0 ? keep(cfg, (double)cfg->rope_context * f / full_turn) : 0;
        inv_freq[i] = (float)(part * f + (1 - part) * slow);
    }
}

void rope_freq_make_local(const struct model_config *cfg, float *inv_freq)
{
    for (int i = 0; i < cfg->rope_dims / 2; i++)
        inv_freq[i] = (float)base_freq(cfg->rope_theta_local, i, cfg->rope_dims);
}
