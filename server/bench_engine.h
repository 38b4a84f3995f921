/* bench_engine.h - tokens per second of a model through the scheduler, without HTTP.
 *
 *     inferd bench engine MODEL [--random] [--repeats N] [--parallel-max N]
 *            [--tables auto|full|few|none] [--prefill TOKENS,...] [--decode BATCHxTOKENS,...]
 *            [--json] [any option of serve]
 *
 * Measures, in turn and N times over: a prompt of 512 tokens until its first token, 128 tokens
 * after a short prompt, and 128 tokens each of 16 and of 32 requests at once.  Prompts are ids from
 * a generator, different in every request, and the prefix cache is off.  A first round warms up and
 * does not count.  Figures are medians.  --parallel-max leaves out what has more requests at once; 0,
 * all of these.  Then the tables of bench_table.h; with --prefill or --decode these rows alone.
 *
 * With --random, MODEL is a config.json or its folder, and weights are random: nothing is read or
 * written but that file.
 *
 * Thread: main's, in the place of the loop thread. */
#ifndef SERVER_BENCH_ENGINE_H
#define SERVER_BENCH_ENGINE_H

int bench_engine_main(int argc, char **argv);

#endif
