// What face-api's own JavaScript finds in pictures that `pictures.py` has written as raw RGB.
// Usage: node make.mjs PICTURES ANSWERS.json      (see README.md)
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { cwd } from 'node:process';

const require = createRequire(join(cwd(), 'package.json'));
const [folder, target] = process.argv.slice(2);
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const root = join(dirname(require.resolve('@vladmandic/face-api/package.json')));
const faceapi = require(join(root, 'dist', 'face-api.node-wasm.js'));

wasm.setWasmPaths(`${dirname(require.resolve('@tensorflow/tfjs-backend-wasm/package.json'))}/dist/`);
await tf.setBackend('wasm');
await tf.ready();
await faceapi.nets.ssdMobilenetv1.loadFromDisk(join(root, 'model'));
const options = new faceapi.SsdMobilenetv1Options({ minConfidence: 0.5 });

const lines = [];
for (const { name, width, height, sha256 } of JSON.parse(readFileSync(join(folder, 'index.json')))) {
  const pixels = readFileSync(join(folder, `${name}.rgb`));
  const picture = tf.tensor3d(new Uint8Array(pixels), [height, width, 3], 'int32');
  const found = await faceapi.detectAllFaces(picture, options);
  picture.dispose();
  const round = (value, digits) => Number(value.toFixed(digits));
  const faces = found.map(({ box, score }) => [
    round(box.x, 3), round(box.y, 3), round(box.width, 3), round(box.height, 3), round(score, 5),
  ]);
  lines.push(`${JSON.stringify(name)}: ${JSON.stringify({ width, height, sha256, faces })}`);
}
const versions = {
  'face-api': faceapi.version.faceapi ?? faceapi.version, tfjs: tf.version_core, node: process.version,
};
writeFileSync(target, `{"versions": ${JSON.stringify(versions)},\n"pictures": {\n${lines.join(',\n')}\n}}\n`);
