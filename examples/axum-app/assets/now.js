// What is now: the sentence, the figures, and what a screen reader is told.

import { isGone, lanes, latest, now, state, time } from './state.js';

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');
const tiles = Object.fromEntries([...document.querySelectorAll('[data-figure]')].map((tile) => {
  const [value, note] = tile.querySelectorAll('dd');
  return [tile.dataset.figure, { tile, value, note }];
}));

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function figure(name, value, note, tone = '') {
  put(tiles[name].value, value);
  put(tiles[name].note, note);
  tiles[name].tile.dataset.tone = tone;
}

/** The current lane, and the time it has left. */
function current() {
  const lane = lanes().find((l) => l.stage === 'current');
  return { lane, left: lane?.end == null ? null : lane.end - now() };
}

/** In one word, for the corner; and what stands in the way, if anything does. */
function standing() {
  const s = latest();
  if (state.bye) return ['stopped', 'stopped', null];
  if (state.connected === false) return ['lost', 'lost', null];
  if (!s) return ['unknown', 'connecting', null];
  const away = s.vault?.sealed ? 'Vault is sealed' : s.vault && !s.vault.reachable ? 'Vault does not answer' : null;
  const trouble = away ?? (s.last_error ? 'something fails' : null);
  if (s.stopped) return ['stopped', 'stopped', trouble];
  const { lane } = current();
  if (s.state === 'expired' || (lane && isGone(lane))) return ['expired', away ?? 'no login', trouble];
  if (away || s.state === 'degraded') return ['degraded', away ?? 'degraded', trouble];
  return ['ready', 'all is well', null];
}

export function drawNow() {
  const [kind, word, trouble] = standing();
  const corner = $('state');
  put(corner, word);
  corner.dataset.state = kind;
  put($('sentence'), sentence(kind, trouble));
  put($('next'), next(kind));
  figures();
}

function sentence(kind, trouble) {
  const { lane, left } = current();
  if (kind === 'unknown') return 'Asking the service how it is.';
  if (kind === 'lost') return 'This page has lost the service. It asks again soon.';
  if (state.bye) return 'The service was stopped, and gives its logins back.';
  if (kind === 'stopped') return `Nothing renews or replaces the login any more: ${latest().stopped}`;
  if (!lane) return 'The service is getting its first login.';
  const name = `login no.\u00a0${lane.generation}`;
  if (isGone(lane)) return `Postgres knows ${name} no more; nothing can be asked until there is another.`;
  if (kind === 'expired') return `The time of ${name} is up${trouble ? `, and ${trouble}` : ''}. What is open goes on; nothing new can be opened.`;
  const lives = left == null ? 'which has no end' : `which lives ${time(left)} more`;
  return trouble ? `Queries run on ${name}, ${lives}, though ${trouble}.` : `Queries run on ${name}, ${lives}.`;
}

function next(kind) {
  const all = lanes();
  const s = latest();
  if (!s || kind === 'lost' || kind === 'stopped') return '';
  if (kind === 'expired') return s.last_error ? `A new one is asked for again and again. The last answer: ${s.last_error}` : 'A new one is asked for.';
  const { lane } = current();
  if (lane && isGone(lane)) return s.last_error ? `Another one is asked for. The last answer: ${s.last_error}` : 'Another one is asked for.';
  if (kind === 'degraded' && s.last_error) return `Nothing is lost by that yet. The last answer: ${s.last_error}`;
  if (kind === 'degraded') return 'Nothing is lost by that yet: the login is good until its time is up.';
  if (all.some((l) => l.stage === 'proving')) return 'The next one is being tried.';
  const leaving = all.find((l) => l.over == null && l.superseded != null);
  if (leaving) return leaves(leaving);
  const unused = all.find((l) => l.stage === 'unwanted');
  if (unused) return 'A login that never came into use is not revoked yet.';
  if (lane?.last_renewal && s.rotates_in != null) {
    return `It can’t be renewed any further: the next one is fetched in ${time(s.rotates_in - (now() - s.at))}.`;
  }
  return 'Before that it is renewed, or another one takes its place.';
}

function leaves(lane) {
  const name = `No. ${lane.generation}`;
  const left = lane.remaining === 1 ? '1 connection' : `${lane.remaining} connections`;
  switch (lane.stage) {
    case 'unwanted': return `${name} is not wanted any more, and not revoked yet.`;
    case 'drained': return lane.remaining ? `${name} still has ${left} at its deadline, and is about to be revoked.` : `${name} is empty and about to be revoked.`;
    default: return `${name} is being emptied: its queries finish, and nothing new begins on it.`;
  }
}

function figures() {
  const s = latest();
  if (!s) return;
  const asked = s.ok_total + s.failed_total;
  const harmed = s.explained_total === s.failed_total ? ', after a button' : `, ${number.format(s.explained_total)} after a button`;
  figure('failed', number.format(s.failed_total), `of ${number.format(asked)}${s.explained_total ? harmed : ' since the start'}`, s.failed_total ? 'bad' : 'good');
  const since = state.samples.filter((one) => one.at > s.at - 3);
  const first = since[0] ?? s;
  const length = s.at - first.at;
  const answered = since.slice(1).reduce((all, one) => all + one.ok + one.failed, 0);
  figure('rate', length > 0 ? number.format(Math.round(answered / length)) : '–', `over ${s.pool_size} connections`);
  const p99 = s.recent_p99_ms;
  figure('latency', p99 == null ? '–' : `${p99 < 10 ? p99.toFixed(1) : Math.round(p99)} ms`, 'over the last 3 s');
  const { lane, left } = current();
  // By the login, as the sentence is: a sample may be older.
  const replaced = lane ? lane.generation - 1 : 0;
  const rotations = replaced === 1 ? '1 login' : `${replaced} logins`;
  const gone = lane != null && isGone(lane);
  const lives = gone ? 'gone' : !lane ? '–' : left == null ? 'no end' : time(left);
  figure('lease', lives, lane ? `${rotations} replaced so far` : '', gone || (left != null && left <= 0) ? 'bad' : '');
  const token = s.token.expires_in == null ? null : s.token.expires_in - (now() - s.at);
  figure('token', token == null ? 'no end' : time(token), s.token.lost ? 'lost' : s.token.renewing ? 'is renewed by itself' : 'can’t be renewed', s.token.lost ? 'bad' : '');
}

let saidState = '';

/** For a screen reader: a change of state or of the login, nothing that only counts down. */
export function say(what, data) {
  const [kind, , trouble] = standing();
  const changed = kind !== saidState && kind !== 'unknown';
  if (changed) {
    const was = saidState;
    saidState = kind;
    if (was || kind !== 'ready') put($('said'), kind === 'ready' ? 'All is well again.' : sentence(kind, trouble));
  } else if (what === 'entry' && data.kind === 'swapped') {
    put($('said'), data.words);
  }
}
