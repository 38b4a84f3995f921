/* fill_module.cu - the CUDA module whose prompts cost next to nothing, for tests/gpu/kv_slope.py: what
 * fills a long cache for steps that are to be timed.
 *
 * A step with more tokens than sequences has a prompt in it.  Of such a step the embedding, the first
 * layer's q, k and v, and each layer's rotation and write of keys and values run; attention and the
 * other products do not.  So each page holds numbers of the size that a model makes, in the
 * cache's type and by the kernel that always writes them, though those of all layers are the first's.
 * What such a step samples means nothing.  Steps that decode alone run whole. */
#include "tests/gpu/wrap_module.cuh"

namespace
{

/* Of the step in hand; a rank's steps are all made by its own thread. */
thread_local bool is_prompt;
thread_local int n_matmuls;

bool step_begin(device *d, const batch *b, uint64_t shape)
{
    is_prompt = b->n_tokens > b->n_seqs;
    n_matmuls = 0;
    return real->ops->step_begin(d, b, shape);
}

void matmul(device *d, const matmul_args *a)
{
    if (!is_prompt || n_matmuls++ == 0)
        real->ops->matmul(d, a);
}

/* In two: the first layer's product has to leave k and v for the others. */
void matmul_rope_kv(device *d, const matmul_args *m, const rope_kv_args *r)
{
    if (!is_prompt)
        return real->ops->matmul_rope_kv(d, m, r);
    matmul(d, m);
    real->ops->rope_kv(d, r);
}

void attention(device *d, const attention_args *a)
{
    if (!is_prompt)
        real->ops->attention(d, a);
}

void norm(device *d, const norm_args *a)
{
    if (!is_prompt)
        real->ops->norm(d, a);
}

/* That of the embedding comes before the first product. */
void all_reduce(device *d, const all_reduce_args *a)
{
    if (!is_prompt || n_matmuls == 0)
        real->ops->all_reduce(d, a);
}

void change(ops *table, const char *)
{
    table->step_begin = step_begin;
    table->matmul = matmul;
    table->matmul_rope_kv = matmul_rope_kv;
    table->attention = attention;
    table->norm = norm;
    table->all_reduce = all_reduce;
}

} // namespace
