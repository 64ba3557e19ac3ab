/** Where a worker and its components write what happens. */
export type Level = "debug" | "info" | "warn" | "error";

export type Log = (level: Level, message: string, fields?: Record<string, unknown>) => void;

/** One JSON line on stderr for each. */
export const logToStderr: Log = (level, message, fields = {}) => {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
};
