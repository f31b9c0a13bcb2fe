import { defineCommand } from "../command.js";
import { SHELL_SCRIPTS, SHELLS } from "../shell-scripts.js";
import { oneOf } from "../values.js";

export const completion = defineCommand({
  summary: "Print what makes a shell complete the words of smolvm",
  description: `bash: add 'source <(smolvm completion bash)' to ~/.bashrc.

zsh: write it to a file named _smolvm in a folder of $fpath.

fish: write it to ~/.config/fish/completions/smolvm.fish.`,
  positionals: [{ name: "SHELL", completes: SHELLS }],
  run({ positionals: [shell] }) {
    const script = SHELL_SCRIPTS[oneOf("SHELL", shell, SHELLS) ?? "bash"];
    return Promise.resolve({ text: script, data: { script } });
  },
});
