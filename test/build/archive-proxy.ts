import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly modified: string;
  readonly body: Buffer;
}

/**
 * An HTTP proxy that fetches each address once, so that tests which make the same image many times burden the network with one.
 * Archives at https addresses are not seen by it, and so are fetched each time.
 */
export class ArchiveProxy {
  readonly #server: Server;
  readonly #answers = new Map<string, Promise<Answer>>();

  constructor() {
    this.#server = createServer((incoming, outgoing) => void this.#serve(incoming, outgoing));
    this.#server.unref();
  }

  /** Starts it; gives its address for `http_proxy`. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  async #serve(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const address = incoming.url ?? "";
    const answer = this.#answers.get(address) ?? fetchOnce(address);
    this.#answers.set(address, answer);
    try {
      const { status, type, modified, body } = await answer;
      outgoing.writeHead(status, {
        "content-type": type,
        "content-length": body.length,
        ...(modified && { "last-modified": modified }),
      });
      outgoing.end(body);
    } catch {
      this.#answers.delete(address); // apt tries again, and so does this
      outgoing.writeHead(502).end();
    }
  }
}

async function fetchOnce(address: string): Promise<Answer> {
  return await new Promise((resolve, reject) => {
    const outgoing = request(address, { headers: { "accept-encoding": "identity" } }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const { "content-type": type = "", "last-modified": modified = "" } = response.headers;
        resolve({ status: response.statusCode ?? 502, type, modified, body: Buffer.concat(chunks) });
      });
    });
    outgoing.on("error", reject);
    outgoing.end();
  });
}
