// A tool for an AI agent: it runs whatever a model wrote, in a machine without a network, and always comes back with an
// answer that the model can read.
import { OperationTimeoutError, SmolVM } from "smolvm";

const vm = await SmolVM.create({ network: "none" });

/** @param {string} script */
async function runShell(script) {
  try {
    const { exitCode, signal, stdout, stderr } = await vm.run(script, { timeoutMs: 3000 });
    return answer(signal === null ? `exit status ${exitCode}` : `ended by ${signal}`, stdout, stderr);
  } catch (error) {
    // Everything that the script had started is gone by now; the machine goes on.
    if (!(error instanceof OperationTimeoutError)) throw error;
    return answer("timed out after 3 s", error.details["stdout"], error.details["stderr"]);
  }
}

/** @param {unknown[]} parts */
function answer(...parts) {
  return parts
    .map((part) => String(part).trim())
    .filter((part) => part !== "")
    .join("\n");
}

const attempts = [
  "echo $((6 * 7))",
  "cat /etc/shadow-of-nothing",
  "echo working; while true; do :; done",
  "rm -rf /bin; echo gone",
];
try {
  for (const script of attempts) {
    console.log(`> ${script}\n${await runShell(script)}\n`);
  }
} finally {
  await vm.delete();
}
