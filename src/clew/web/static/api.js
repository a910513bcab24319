/** The server's HTTP interface. Every failure is an ApiError; status 0 means that nobody answered. */

const ROOT = "/api/v1";

export class ApiError extends Error {
  constructor(status, code, message, details) {
    super(message);
    Object.assign(this, { status, code, details });
  }

  /** Whether sending the same again later may succeed. */
  get isPassing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

export const get = (path) => call("GET", path);
export const post = (path, body = {}, options = {}) => call("POST", path, body, options);
export const patch = (path, body) => call("PATCH", path, body);
export const remove = (path) => call("DELETE", path);

/** The body of the reply, null where it has none (204). */
async function call(method, path, body, { key, type = "application/json" } = {}) {
  const reply = await answered(method, path, body, key, type);
  const parsed = await reply.json().catch(() => null);
  if (reply.ok) return parsed;
  const { code = "unknown", message = reply.statusText, details } = parsed?.error ?? {};
  throw new ApiError(reply.status, code, message || `The server answered ${reply.status}.`, details);
}

async function answered(method, path, body, key, type) {
  const headers = {};
  if (method !== "GET") Object.assign(headers, { "X-Clew": "1", "Content-Type": type });
  if (key) headers["Idempotency-Key"] = key;
  const content = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  try {
    return await fetch(ROOT + path, {
      method,
      headers,
      body: content,
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch {
    throw new ApiError(0, "unreachable", "The server cannot be reached.");
  }
}
