/** A process to be killed: one transfer, described by the JSON in the first argument. Prints a line when it has begun, and "done" or the
 * code of its error in the end. */
import type { SmolVMError } from "../../../src/errors.js";
import { transferWith } from "../../../src/images/fetch/transfer.js";
import { policyFor, type TransportName } from "./setting.js";

const { url, digest, partial, transport, lanes } = JSON.parse(process.argv[2] ?? "") as {
  url: string;
  digest: string;
  partial: string;
  transport: TransportName;
  lanes: number;
};
process.stdout.write("begun\n");
const policy = policyFor(transport, { maxLanes: lanes, laneWorthMs: 0, laneTrialMs: 40, gapTimeoutMs: 5_000 });
try {
  await transferWith({ urls: [url], digest, partial }, policy);
  process.stdout.write("done\n");
} catch (error) {
  process.stdout.write(`${(error as SmolVMError).code}\n`);
}
