// peer_llama_cpp.mjs - llama.cpp on the same file and threads, for a ratio in the same run.
//
//   node tests/bench/peer_llama_cpp.mjs MODEL THREADS [REPEATS]
//
// Needs the npm package node-llama-cpp (found from the folder NODE_PATH_PEER or here).  Prints one
// line a measure: name, tokens, milliseconds, tokens/s: prompt of 512 tokens; 128 tokens generated
// greedily after a prompt of 16; and 128 tokens for each of 16 sequences at once (prompts of 16).
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [model_path, threads_text, repeats_text] = process.argv.slice(2);
const threads = Number(threads_text || 2), repeats = Number(repeats_text || 3);
const from = process.env.NODE_PATH_PEER || process.cwd();
const require = createRequire(path.join(from, 'x.js'));
const entry = require.resolve('node-llama-cpp', { paths: [from] });
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(entry));

const llama = await getLlama({ gpu: false, build: 'never', maxThreads: threads,
                               logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: model_path });
const median = (a) => a.sort((x, y) => x - y)[a.length >> 1];
const say = (name, tokens, ms) => console.log(
    `llama.cpp ${name} tokens=${tokens} ms=${ms.toFixed(1)} tok/s=${(tokens / ms * 1000).toFixed(1)}`);

// Ids from the middle of the vocabulary, different in each sequence, never a special token.
const prompt = (n, salt) => Array.from({ length: n }, (_, i) => 1000 + (i * 7919 + salt * 104729) % 40000);

async function with_context(sequences, run) {
    const context = await model.createContext({ contextSize: 1024, sequences, batchSize: 512, threads });
    const all = [];
    for (let i = 0; i < sequences; i++) all.push(context.getSequence());
    try { return await run(all); } finally { await context.dispose(); }
}

async function generate(sequence, ids, n) { // n tokens after ids; the time from the first on
    let count = 0, start = 0;
    for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
        if (count++ === 0) start = performance.now();
        if (count > n) break;
    }
    return performance.now() - start;
}

const prefill = [], decode = [], batch = [];
for (let r = 0; r < repeats + 1; r++) {
    const p = await with_context(1, async ([s]) => {
        const start = performance.now();
        await s.evaluateWithoutGeneratingNewTokens(prompt(512, r));
        return performance.now() - start;
    });
    const d = await with_context(1, ([s]) => generate(s, prompt(16, r), 128));
    const b = await with_context(16, async (all) => {
        const start = performance.now();
        await Promise.all(all.map((s, i) => generate(s, prompt(16, r * 16 + i), 128)));
        return performance.now() - start;
    });
    if (r > 0) { prefill.push(p); decode.push(d); batch.push(b); } // the first warms up
}
say('prompt-512', 512, median(prefill));
say('generate-128', 128, median(decode));
say('generate-16x128', 16 * 129, median(batch));
process.exit(0);
