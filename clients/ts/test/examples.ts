// The examples in the documents, as functions.
import { readFileSync } from "node:fs";

/** An example, and the rest of the line that begins it: a name, or nothing. */
export interface Example {
  label: string;
  code: string;
}

/** The examples of a document in a language. The path begins at the package. */
export function examplesIn(file: string, language: string): Example[] {
  const text = readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");
  const blocks = text.matchAll(new RegExp(`^\`\`\`${language}\\b ?([^\\n]*)\\n(.*?)^\`\`\`$`, "gms"));
  return [...blocks].map(([, label, code]) => ({ label: label!, code: code! }));
}

/**
 * Code without its imports as a function, which gets the names that the code uses and returns those that it makes. Some
 * texts in it have others in their places.
 */
export function runOf(code: string, places: Record<string, string> = {}) {
  let body = code.replace(/^import .*$/gm, "");
  for (const [text, other] of Object.entries(places)) body = body.replaceAll(text, other);
  const made = [...body.matchAll(/^const (\w+) =/gm)].map(([, name]) => name);
  return (names: Record<string, unknown>): Promise<any> => {
    const run = new Function(...Object.keys(names), `return (async () => {${body}\nreturn { ${made.join()} }})()`);
    return run(...Object.values(names));
  };
}
