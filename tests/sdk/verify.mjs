// Verifies messages with the npm package of Standard Webhooks. Reads lines of {secret, headers, body}, writes one word
// for each: "good", or why not.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const { Webhook } = createRequire(process.env.NODE_MODULES + "/")("standardwebhooks");

for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(body, headers);
    console.log("good");
  } catch (error) {
    console.log(error.message);
  }
}
