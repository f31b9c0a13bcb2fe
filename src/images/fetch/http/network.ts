import { FetchFailure } from "../failure.js";

/** Errors that asking again does not mend: names that don't exist, certificates that don't hold, what is not HTTP at all. */
const LASTING = new Set(["ENOTFOUND", "HPE_HEADER_OVERFLOW", "ERR_TLS_CERT_ALTNAME_INVALID", "EACCES", "EPERM"]);

/** What went wrong below HTTP. */
export function networkFailure(error: unknown, prefix = ""): FetchFailure {
  if (error instanceof FetchFailure) return error;
  const { code = "", message } = error as NodeJS.ErrnoException;
  const lasting = LASTING.has(code) || isCertificateError(code);
  return new FetchFailure(prefix + explain(code, message, error), { transient: !lasting, cause: error });
}

function explain(code: string, message: string, error: unknown): string {
  if (error instanceof AggregateError && message === "") {
    // All addresses of a name were tried, and each has its own error.
    return error.errors.map((one: unknown) => (one instanceof Error ? one.message : String(one))).join(", ");
  }
  if (code === "HPE_HEADER_OVERFLOW") return "the server's headers are too large";
  if (code.startsWith("HPE_")) return `the server's answer is not HTTP: ${message}`;
  if (code === "ECONNRESET" && (message === "aborted" || message === "socket hang up"))
    return "the connection ended early";
  return message;
}

/** OpenSSL's reasons, as Node names them: X509_V_ERR_… without its beginning. */
function isCertificateError(code: string): boolean {
  return /^(CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|HOSTNAME_MISMATCH|PATH_LENGTH_|CRL_|ERR_SSL_)/.test(
    code,
  );
}
