// The API of the host under test, to prepare data and to compare what the console shows with the truth.

export class Api {
  constructor(base, token) {
    this.base = base;
    this.token = token;
  }

  async send(method, path, body) {
    const headers = { "content-type": "application/json" };
    if (this.token) headers.authorization = `Bearer ${this.token}`;
    const sent = body === undefined ? undefined : JSON.stringify(body);
    const response = await fetch(this.base + path, { method, headers, body: sent });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text === "" ? null : JSON.parse(text);
  }

  get(path) {
    return this.send("GET", path);
  }

  post(path, body = {}) {
    return this.send("POST", path, body);
  }

  order(id, more = {}) {
    const order = { order_id: id, user_id: "ada", items: ["Book"], total: 20, ...more };
    return this.post("/orders", order);
  }
}

/** What a page would run if it took data for markup or script. */
export const HOSTILE = `"><img src=x onerror="window.pwned=1"><script>window.pwned=2</script>`;
