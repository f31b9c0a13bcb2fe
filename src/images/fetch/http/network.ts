import { FetchFailure } from "../failure.js";

/** Errors that asking again does not mend: names that don't exist, certificates that don't hold, what is not HTTP at all. */
const LASTING = new Set(["ENOTFOUND", "HPE_HEADER_OVERFLOW", "ERR_TLS_CERT_ALTNAME_INVALID", "EACCES", "EPERM"]);

const NETWORK_HINT =
  "Check that this machine has a network. Behind a proxy, set HTTPS_PROXY (HTTP_PROXY for http: addresses).";
const NAME_HINT = `Check the host's name for mistakes. ${NETWORK_HINT}`;
const REFUSED_HINT = `Nothing answers at that host and port: check both, and that the server runs. ${NETWORK_HINT}`;

/** What to do about an error of the system, by its code. */
const HINTS: Readonly<Record<string, string>> = {
  ENOTFOUND: NAME_HINT,
  EAI_AGAIN: NAME_HINT,
  ECONNREFUSED: REFUSED_HINT,
  EHOSTUNREACH: NETWORK_HINT,
  ENETUNREACH: NETWORK_HINT,
  ENETDOWN: NETWORK_HINT,
  ETIMEDOUT: NETWORK_HINT,
};

const CERTIFICATE_HINT =
  "The server's certificate is not one that is trusted here. If an authority of your own signed it, name that one's certificate: NODE_EXTRA_CA_CERTS=/path/to/ca.pem. Check this machine's clock, too.";
const NO_TLS_HINT =
  "The server may not speak TLS at that port: check whether the address should begin with http: or have another port.";

/** What went wrong below HTTP. */
export function networkFailure(error: unknown, prefix = ""): FetchFailure {
  if (error instanceof FetchFailure) return error;
  const { code = "", message } = error as NodeJS.ErrnoException;
  const certificate = isCertificateError(code);
  const noTls = code === "EPROTO" || code.startsWith("ERR_SSL_");
  const lasting = LASTING.has(code) || certificate || noTls;
  const hint = certificate ? CERTIFICATE_HINT : noTls ? NO_TLS_HINT : HINTS[code];
  const reason = prefix + explain(code, message, error);
  return new FetchFailure(reason, { transient: !lasting, hint: hint ?? null, cause: error });
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
  return /^(CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_CA|HOSTNAME_MISMATCH|PATH_LENGTH_|CRL_|ERR_TLS_CERT)/.test(
    code,
  );
}
