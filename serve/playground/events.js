/** Server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html; EventSource itself cannot POST. */

/**
 * @param {ReadableStream<Uint8Array>} body
 * @yields {{name: string, data: string}}
 */
export async function* events(body) {
  let name = "";
  let data = [];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data.length) yield { name, data: data.join("\n") };
      name = "";
      data = [];
    } else if (line.startsWith("event:")) name = valueOf(line);
    else if (line.startsWith("data:")) data.push(valueOf(line));
  }
}

function valueOf(line) {
  return line.slice(line.indexOf(":") + 1).replace(/^ /, "");
}

/** Only whole lines; the pieces of a long one are joined once, as it may hold megabytes. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = [];
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const [first, ...others] = value.split("\n");
    begun.push(first);
    for (const next of others) {
      yield begun.join("").replace(/\r$/, "");
      begun = [next];
    }
  }
}
