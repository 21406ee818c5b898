// What is known, kept up by the server's events. Times are seconds since the service began.

const SAMPLES = 600;
const ENTRIES = 300;
const LANES = 60;

export const state = {
  connected: null, // true, false once it was lost
  bye: false, // the service said that it stops
  lanes: new Map(),
  entries: [],
  samples: [],
  buttons: null,
  paused: null, // the instant at which the page was paused
};

// The server's clock minus ours: the highest seen is of the message that took the shortest way.
let ahead = -Infinity;
const listeners = [];

/** Calls `listener(what, data)` with everything that comes. */
export const listen = (listener) => listeners.push(listener);

/** The server's time now, or that at which the page was paused. */
export function now() {
  return state.paused ?? running();
}

const running = () => (ahead === -Infinity ? 0 : ahead + performance.now() / 1000);

export function pause(on) {
  state.paused = on ? running() : null;
}

export const latest = () => state.samples[state.samples.length - 1];

/** The lanes, the newest first. */
export const lanes = () => [...state.lanes.values()].sort((a, b) => b.id - a.id);

/** Whether Postgres knows a current login no more, though its time is not up. */
export const isGone = (lane) => lane.stage === 'current'
  && (lane.broken != null || (latest()?.state === 'expired' && lane.end > now()));

/** How many seconds back and ahead the pictures show: some lives of a login. */
export function span(width) {
  let life = 6;
  for (const lane of lanes().slice(0, 6)) {
    life = Math.max(life, ((lane.over ?? lane.end ?? now()) - lane.issued) || 0);
  }
  const lives = width < 600 ? 2.4 : 4;
  return { back: Math.min(life * lives, 7200), ahead: Math.min(life * 0.75, 3600) };
}

function clock(at) {
  ahead = Math.max(ahead, at - performance.now() / 1000);
}

function keep(list, item, most) {
  list.push(item);
  if (list.length > most) list.shift();
}

const take = {
  hello(all) {
    ahead = -Infinity;
    clock(all.now);
    state.bye = false;
    state.lanes = new Map(all.lanes.map((lane) => [lane.id, lane]));
    state.entries = all.entries;
    state.samples = all.samples;
    state.buttons = all.buttons;
  },
  bye() { state.bye = true; },
  lane(lane) {
    state.lanes.set(lane.id, lane);
    for (const [id, one] of state.lanes) {
      if (state.lanes.size <= LANES) break;
      if (one.over != null) state.lanes.delete(id);
    }
  },
  entry(entry) { keep(state.entries, entry, ENTRIES); },
  sample(sample) {
    clock(sample.at);
    keep(state.samples, sample, SAMPLES);
  },
  buttons(buttons) { state.buttons = buttons; },
};

function tell(what, data) {
  for (const listener of listeners) listener(what, data);
}

/** Follows the server, and asks again where it is lost. */
export function follow() {
  const source = new EventSource('/events');
  for (const [what, apply] of Object.entries(take)) {
    source.addEventListener(what, (message) => {
      const data = JSON.parse(message.data);
      apply(data);
      state.connected = true;
      tell(what, data);
    });
  }
  source.onerror = () => {
    state.connected = false;
    tell('lost');
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  };
}

/** `4.2 s`, `58 min`, `1.5 h`, with a space that does not break. */
export function time(seconds) {
  const s = Math.max(0, seconds);
  if (s < 100) return `${s.toFixed(1)}\u00a0s`;
  if (s < 120) return `${Math.round(s)}\u00a0s`;
  if (s < 5400) return `${Math.round(s / 60)}\u00a0min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)}\u00a0h`;
  return `${Math.round(s / 86400)}\u00a0days`;
}
