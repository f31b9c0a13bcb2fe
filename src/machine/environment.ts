import { inspect } from "node:util";

import { ValidationError } from "../errors.js";

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** @throws ValidationError naming the variable. */
export function assertEnvVars(field: string, value: unknown): Readonly<Record<string, string>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ValidationError(`${field} is ${inspect(value, { depth: 0 })}; allowed is an object of strings.`, {
      details: { field },
    });
  }
  for (const [name, text] of Object.entries(value)) {
    assertEnvName(field, name);
    if (typeof text !== "string" || text.includes("\0")) {
      throw new ValidationError(
        `${field}.${name} is ${inspect(text, { depth: 0 })}; allowed is a string without NUL.`,
        {
          details: { field, name },
        },
      );
    }
  }
  return value as Readonly<Record<string, string>>;
}

/** @throws ValidationError */
export function assertEnvName(field: string, name: unknown): string {
  if (typeof name === "string" && NAME.test(name)) return name;
  throw new ValidationError(
    `${field} has ${inspect(name, { depth: 0 })}; the name of a variable is letters, digits and "_", with no digit first.`,
    { details: { field, name } },
  );
}
