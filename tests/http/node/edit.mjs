// One call of OpenAI's own client, as its users write it. argv: where the client is installed, and the call as JSON.
// Prints what it answered, or what it threw, as JSON.
import fs from "node:fs";
import { pathToFileURL } from "node:url";

const [installed, text] = process.argv.slice(2);
const { default: OpenAI, toFile } = await import(pathToFileURL(installed).href);
const { baseURL, images, mask, params, options } = JSON.parse(text);
let tries = 0;
const client = new OpenAI({
  baseURL,
  apiKey: "unused",
  maxRetries: 0,
  fetch: (...request) => (tries++, fetch(...request)),
  ...options,
});

async function sent(path) {
  return path.endsWith(".png") ? fs.createReadStream(path) : await toFile(fs.readFileSync(path), "photo.png");
}

try {
  const files = await Promise.all(images.map(sent));
  const body = { ...params, image: files.length === 1 ? files[0] : files };
  if (mask) body.mask = await sent(mask);
  const { data: answer, response } = await client.images.edit(body).withResponse();
  if (params.stream) {
    const events = [];
    for await (const event of answer) events.push(event);
    console.log(JSON.stringify({ events }));
  } else {
    console.log(JSON.stringify({ answer, headers: Object.fromEntries(response.headers) }));
  }
} catch (error) {
  const { name, status, code, param, message } = error;
  console.log(JSON.stringify({ error: { name: error.constructor.name ?? name, status, code, param, message }, tries }));
}
