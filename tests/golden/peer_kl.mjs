// peer_kl.mjs - llama.cpp's probabilities over a fixed text, one Float32 row a position, to a file.
//
//   node tests/golden/peer_kl.mjs MODEL PPL_GOLDEN N_TOKENS OUT     (see peer_kl.py)
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [model_path, golden, n_text, out] = process.argv.slice(2);
const from = process.env.NODE_PATH_PEER || process.cwd();
const require = createRequire(path.join(from, 'x.js'));
const { getLlama, LlamaLogLevel } = await import(
    pathToFileURL(require.resolve('node-llama-cpp', { paths: [from] })));

const ids = fs.readFileSync(golden, 'utf8').match(/^ids (.*)$/m)[1].split(' ').map(Number)
    .slice(0, Number(n_text));
const llama = await getLlama({ gpu: false, build: 'never', maxThreads: 2, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: model_path });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: 2 });
const vocab = 49152, fd = fs.openSync(out, 'w');
let n_bad = 0;
const rows = await context.getSequence().controlledEvaluate(
    ids.map((id) => [id, { generateNext: { probabilities: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } } }]));
for (const row of rows) {
    const p = new Float32Array(vocab);
    for (const [id, value] of row.next.probabilities) p[id] = value;
    if (row.next.probabilities.size !== vocab) n_bad++;
    fs.writeSync(fd, Buffer.from(p.buffer));
}
console.log(`${rows.length} rows, ${n_bad} of them with fewer than ${vocab} probabilities`);
process.exit(0);
