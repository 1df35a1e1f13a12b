// A signal and its outcome, from Node without a package: RESP is a length and bytes. With the `redis` package it is
// client.xAdd("signals.created", "*", { data: JSON.stringify(event) }).
// Without REDIS_SOCKET they go to the server of a `refinery up` that was started in this directory.
import net from "node:net";

const socket = net.connect(process.env.REDIS_SOCKET ?? "var/valkey/valkey.sock");
const command = (...parts) =>
  `*${parts.length}\r\n` + parts.map((part) => `$${Buffer.byteLength(part)}\r\n${part}\r\n`).join("");
const xadd = (stream, event) => command("XADD", stream, "*", "data", JSON.stringify(event));

const day = 24 * 3600 * 1000;
const now = new Date();
const yesterday = new Date(now - day);
const closes = Array.from({ length: 60 }, (_, n) => 100 + n / 10);
const bars = {
  timestamp: closes.map((_, n) => new Date(yesterday - (59 - n) * day).toISOString()),
  open: closes,
  high: closes.map((close) => close + 1),
  low: closes.map((close) => close - 1),
  close: closes,
  volume: closes.map(() => 1000000),
};
socket.write(
  xadd("signals.created", {
    signal_id: "node-1",
    timestamp: yesterday.toISOString(),
    symbol: "ACME",
    asset_class: "equity",
    signal_type: "breakout",
    bars, // or none, where REFINERY_MARKET_DATA_DIR has them
    features: { funding_rate: 0.0001 }, // learned from where REFINERY_ML__FEATURES__PROVIDED lists it
  }) + xadd("trades.closed", { signal_id: "node-1", closed_at: now.toISOString(), r_multiple: 0.7 }),
);

let answers = "";
socket.on("data", (bytes) => {
  answers += bytes;
  if (answers.startsWith("-") || answers.includes("\r\n-")) throw new Error(answers);
  if (answers.split("\r\n").length > 4) socket.end(() => console.log("2 events published"));
});
