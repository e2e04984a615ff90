// One tab of an installed Firefox, over WebDriver BiDi. The argument is JSON; then it takes a JSON
// command a line, and answers each with a line: {"value": …} or {"error": …}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const { folder, ...options } = JSON.parse(process.argv[2]);
const require = createRequire(pathToFileURL(`${folder}/`));
const { default: puppeteer } = await import(pathToFileURL(require.resolve("puppeteer-core")));

const browser = await puppeteer.launch({ browser: "firefox", ...options });
let context;
let page;
let said;

async function open(url) {
  await context?.close();
  context = await browser.createBrowserContext();
  page = await context.newPage();
  said = new Promise((resolve) => {
    page.on("console", (message) => resolve(message.text()));
    page.on("pageerror", (error) => resolve(error.message));
  });
  await page.goto(url);
}

const commands = {
  open: ({ url }) => open(url),
  evaluate: ({ expression }) => page.evaluate(expression),
  said: () => said,
};

console.log(JSON.stringify({ ready: await browser.version() }));
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line);
  let answer;
  try {
    answer = { value: (await commands[command](options)) ?? null };
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
