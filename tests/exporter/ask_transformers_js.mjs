// What transformers.js answers: node ask_transformers_js.mjs JOB.json, from a folder with @huggingface/transformers.
import fs from "node:fs";
import path from "node:path";

const job = JSON.parse(fs.readFileSync(process.argv[2]));
const js = await import(job.library);
js.env.allowRemoteModels = false;
js.env.localModelPath = path.dirname(job.folder) + path.sep;
const name = path.basename(job.folder);
const floats = ({ data, shape }) => new js.Tensor("float32", Float32Array.from(data), shape);
const options = { max_new_tokens: job.most, do_sample: false };
const numbers = (tensor) => Array.from(tensor.data, Number);

let said;
if (job.kind === "hears") {
  const model = await js.WhisperForConditionalGeneration.from_pretrained(name);
  said = { ids: numbers(await model.generate({ inputs: floats(job.input), ...job.asked, ...options })) };
} else {
  const model = await js.LlavaForConditionalGeneration.from_pretrained(name);
  const processor = await js.AutoProcessor.from_pretrained(name);
  const content = [{ type: "image" }, { type: "text", text: job.question }];
  const text = processor.apply_chat_template([{ role: "user", content }], { add_generation_prompt: true });
  const image = await js.load_image(job.image);
  const inputs = await (job.order === "text" ? processor(text, image) : processor(image, text));
  const prompt = numbers(inputs.input_ids);
  const ids = numbers(await model.generate({ ...inputs, ...options })).slice(prompt.length);
  said = { prompt, ids };
}
console.log(JSON.stringify(said));
