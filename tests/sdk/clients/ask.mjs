// URL CA [CERTIFICATE KEY]: asks with Node's own https, and prints the status and what TLS it was.
import fs from "node:fs";
import https from "node:https";

const [url, ca, cert, key] = process.argv.slice(2);
const read = (file) => file && fs.readFileSync(file);
const request = https.get(url, { ca: read(ca), cert: read(cert), key: read(key) }, (answer) => {
  const said = `${answer.statusCode} ${answer.socket.getProtocol()}`;
  answer.resume().on("end", () => console.log(said));
});
request.on("error", (error) => {
  console.error(error.code, error.message);
  process.exitCode = 1;
});
