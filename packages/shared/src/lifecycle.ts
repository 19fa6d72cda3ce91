/** Something that starts and stops. `close` drains, is idempotent and returns the same promise. */
export interface Component {
  readonly name: string;
  start(): Promise<void>;
  close(): Promise<void>;
}
