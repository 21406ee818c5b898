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
  entry: tellOne,
  sample() { tellCharts(); drawCharts(); },
  buttons: showButtons,
};

listen((what, data) => {
  if (state.paused != null) return;
  tell[what]?.(data);
  say(what, data);
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
