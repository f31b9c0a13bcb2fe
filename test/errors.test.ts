import assert from "node:assert/strict";
import { test } from "node:test";

import {
  BootError,
  HostError,
  ImageError,
  OperationTimeoutError,
  SmolVMError,
  ValidationError,
} from "../src/errors.js";

test("an error shows its own name, its stable code, its cause, and a hint only if it has one", () => {
  const cause = new Error("below");
  const error = new ImageError("IMAGE_UNKNOWN", "It is not there.", { hint: "Look elsewhere.", cause });
  assert.ok(error instanceof SmolVMError);
  assert.equal(error.name, "ImageError");
  assert.equal(String(error), "ImageError: It is not there.");
  assert.equal(error.code, "IMAGE_UNKNOWN");
  assert.equal(error.cause, cause);
  assert.equal(error.hint, "Look elsewhere.");
  const bare = new HostError("HOST_IO", "It broke.");
  assert.ok(!("hint" in bare) && !("cause" in bare));
  assert.equal(new ValidationError("No.").code, "VALIDATION");
});

test("what an error knows can't be changed, and says what is needed to act on it", () => {
  const late = new OperationTimeoutError("run", 250, { details: { command: "sleep 1" } });
  assert.deepEqual({ ...late.details }, { operation: "run", timeoutMs: 250, command: "sleep 1" });
  assert.ok(Object.isFrozen(late.details));
  const boot = new BootError("It did not come up.", { phase: "kernel", consoleTail: ["panic"], accelerator: "tcg" });
  assert.deepEqual([boot.phase, boot.consoleTail, boot.accelerator], ["kernel", ["panic"], "tcg"]);
  assert.ok(Object.isFrozen(boot.consoleTail));
});
