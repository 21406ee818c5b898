// Puts the rooms together: what comes is told, and everything is drawn some times a second.

import { showButtons } from './buttons.js';
import { drawCharts, tellCharts } from './chart.js';
import { tellAll, tellOne } from './log.js';
import { drawNow, say } from './now.js';
import { follow, listen, now, pause, state } from './state.js';
import { drawTimeline, tellLanes } from './timeline.js';

const calm = matchMedia('(prefers-reduced-motion: reduce)');
const button = document.getElementById('pause');

const tell = {
  hello() { tellAll(); tellLanes(); tellCharts(); showButtons(); drawCharts(); },
  lane: tellLanes,
  entry(entry) { tellOne(entry); if (entry.kind === 'expired') tellLanes(); },
  sample() { tellCharts(); drawCharts(); },
  buttons: showButtons,
};

listen((what, data) => {
  if (state.paused != null) return;
  tell[what]?.(data);
  say(what, data);
  // A change is seen at once in words and in the picture, as it is in the table. The picture of those
  // who asked for less motion waits for its second.
  if (what === 'sample') return;
  drawNow();
  if (!calm.matches) drawTimeline();
});

// Ten pictures a second glide; one a second is still, for those who asked for that.
let drawn = -Infinity;
function frame(at) {
  requestAnimationFrame(frame);
  if (at - drawn < (calm.matches ? 1000 : 100) || state.paused != null) return;
  drawn = at;
  drawNow();
  drawTimeline();
}

button.addEventListener('click', () => {
  const on = state.paused == null;
  pause(on);
  button.setAttribute('aria-pressed', String(on));
  if (!on) tell.hello();
});

addEventListener('resize', () => { if (now()) { drawTimeline(); drawCharts(); } });

follow();
requestAnimationFrame(frame);
