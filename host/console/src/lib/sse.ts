// Reads server-sent events from the pieces in which they arrive.

export interface Message {
  /** `message`, unless the sender names it. */
  event: string;
  data: string;
  /** The id of this message or of the last one before it. */
  id: string;
}

export class MessageReader {
  private rest = "";
  private data: string[] = [];
  private event = "";
  private id = "";

  /** The messages that a piece completes. Comments, which keep the connection alive, are none. */
  feed(piece: string): Message[] {
    const lines = (this.rest + piece).split("\n");
    this.rest = lines.pop() ?? "";
    const found: Message[] = [];
    for (const line of lines) {
      const message = this.line(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (message) found.push(message);
    }
    return found;
  }

  private line(line: string): Message | null {
    if (line === "") return this.finish();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.data.push(value);
    if (name === "event") this.event = value;
    if (name === "id") this.id = value;
    return null;
  }

  private finish(): Message | null {
    const message = { event: this.event || "message", data: this.data.join("\n"), id: this.id };
    const isEmpty = this.data.length === 0;
    this.data = [];
    this.event = "";
    return isEmpty ? null : message;
  }
}
