"use strict";
// The frames are unpacked once and added up, so that every position is there at once; what is shown is a function of
// the position alone. Text of the guest's goes into text nodes only.
(async () => {
const $ = id => document.getElementById(id);
const EXIT = 1, STORE = 2, TRAP = 4, ACCESS = 8, HOST = 16, EDIT = 32, ODD = 64, EVEN = 128;
const FLAGS = [["CF", 0], ["PF", 2], ["ZF", 6], ["SF", 7], ["IF", 9], ["OF", 11]];
let film;
try {
  const bytes = Uint8Array.from(atob($("data").textContent), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  film = JSON.parse(await new Response(stream).text());
} catch (error) {
  $("at").textContent = "This browser cannot unpack the steps (" + error.message + "); one of 2023 or later can.";
  return;
}
const count = film.frames.length, first = film.first, last = first + count - 1;
const frames = new Array(count);
const make = (tag, name, text) => {
  const one = document.createElement(tag);
  if (name) one.className = name;
  if (text !== undefined) one.textContent = text;
  return one;
};
const grouped = text => String(text).replace(/\B(?=(\d{3})+(?!\d))/g, ",");

// --- adding up ---
{
  let now = 0;
  const registers = {}, at = {area: 0, msr: 0, host: 0, out: 0};
  let areas = {}, msrs = {}, host = {}, out = 0;
  for (let n = 0; n < count; n++) {
    const [elapsed, acting, next, did, what, texts, kind, changes] = film.frames[n];
    now += elapsed;
    const before = registers[acting] || {};
    let own = before;
    if (changes.length) {
      own = {...before};
      for (let i = 0; i < changes.length; i += 2) own[changes[i]] = changes[i + 1];
      registers[acting] = own;
    }
    for (; at.area < film.area.length && film.area[at.area][0] === n; at.area++)
      areas = {...areas, [film.area[at.area][1]]: film.area[at.area][2]};
    for (; at.msr < film.msr.length && film.msr[at.msr][0] === n; at.msr++) {
      const [, vcpu, place, value] = film.msr[at.msr];
      msrs = {...msrs, [vcpu + ":" + place]: value};
    }
    for (; at.host < film.host.length && film.host[at.host][0] === n; at.host++)
      host = {...host, [film.host[at.host][1]]: film.host[at.host].slice(2)};
    for (; at.out < film.out.length && film.out[at.out][0] === n; at.out++) out++;
    frames[n] = {now, acting, next, did, what, texts, kind, registers: own, areas, msrs, host, out};
  }
}
const printed = [""];
for (const [, text] of film.out) printed.push(printed[printed.length - 1] + text);

// --- the strips: one lane for each vCPU, one for its version, one for what happened ---
const lanes = [];
const lane = (name, paint) => {
  const canvas = make("canvas");
  $("lanes").append(make("span", "", name), canvas);
  lanes.push([canvas, paint]);
};
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const runs = (frame, vcpu) => (frame.host[vcpu] || ["sleeps"])[0];
for (let vcpu = 0; vcpu < film.vcpus && vcpu < 8; vcpu++) {
  lane("vcpu" + vcpu, frame => {
    const state = runs(frame, vcpu);
    if (state === "sleeps") return null;
    return state === "waits" ? ["--wait", .3, .7] : frame.did === vcpu ? ["--run", 0, 1] : ["--run", .55, 1];
  });
  if (film.area.some(one => one[1] === vcpu && one[2]))
    lane("version", frame => {
      const area = frame.areas[vcpu];
      return !area ? null : area[2] % 2 ? ["--odd", 0, 1] : ["--line", .8, 1];
    });
}
lane("exits", frame => frame.kind & (EXIT | TRAP) ? ["--ink", 0, 1] : null);
lane("host", frame => frame.kind & EDIT ? ["--odd", 0, 1] : frame.kind & STORE ? ["--wait", 0, 1]
  : frame.kind & HOST ? ["--soft", .5, 1] : null);
const needle = make("i");
$("lanes").append(needle);
const paint = () => {
  for (const [canvas, kindOf] of lanes) {
    const wide = Math.max(canvas.clientWidth, 50), high = 14, sharp = window.devicePixelRatio || 1;
    canvas.width = wide * sharp;
    canvas.height = high * sharp;
    const pen = canvas.getContext("2d");
    const each = canvas.width / count, tall = canvas.height;
    const colours = {};
    for (let n = 0; n < count; n++) {
      const found = kindOf(frames[n]);
      if (!found) continue;
      pen.fillStyle = colours[found[0]] ||= colour(found[0]);
      const from = Math.floor(n * each), to = Math.max(Math.floor((n + 1) * each), from + 1);
      pen.fillRect(from, found[1] * tall, to - from, (found[2] - found[1]) * tall);
    }
  }
};

// --- the code: functions are built when they are first seen ---
const functions = new Map();
film.code.forEach(([address, , name], index) => {
  const key = name || address;
  if (!functions.has(key)) functions.set(key, []);
  functions.get(key).push(index);
});
const built = new Map();
const rows = [];
let shownFunction = null, nowRow = null, didRow = null;
const functionOf = index => film.code[index][2] || film.code[index][0];
const build = key => {
  const box = make("div");
  box.append(make("div", "fn", key));
  const members = functions.get(key).slice().sort((a, b) => Number(BigInt("0x" + film.code[a][0]) - BigInt("0x" + film.code[b][0])));
  let line = "";
  for (const index of members) {
    const [address, text, , place, source] = film.code[index];
    if (place && place !== line) box.append(make("div", "src", place + "  " + source));
    line = place;
    const row = make("div", "", "    " + address + "  " + text);
    rows[index] = row;
    box.append(row);
  }
  return box;
};
const showCode = frame => {
  if (nowRow) nowRow.classList.remove("now");
  if (didRow) didRow.classList.remove("did");
  nowRow = didRow = null;
  if (frame.next < 0) return;
  const key = functionOf(frame.next);
  if (!built.has(key)) built.set(key, build(key));
  if (shownFunction !== key) {
    $("code").replaceChildren(built.get(key));
    shownFunction = key;
  }
  nowRow = rows[frame.next];
  nowRow.classList.add("now");
  if (frame.what >= 0 && functionOf(frame.what) === key) (didRow = rows[frame.what]).classList.add("did");
  const box = $("code"), top = nowRow.offsetTop, room = box.clientHeight;
  if (top < box.scrollTop + 30 || top > box.scrollTop + room - 50) box.scrollTop = top - room / 2;
};

// --- registers and tables: cells are made once and written to ---
const registerCells = film.registers.map(name => {
  const row = make("div"), value = make("span");
  row.append(make("b", "", name), value);
  $("regs").append(row);
  return [row, value];
});
const flagRow = make("div");
$("regs").append(flagRow);
const table = (box, names) => {
  const body = make("tbody"), whole = make("table");
  whole.append(body);
  $(box).append(whole);
  return names.map(name => {
    const row = make("tr"), head = make("th", "", name), cell = make("td");
    head.scope = "row";
    row.append(head, cell);
    body.append(row);
    return cell;
  });
};
const vcpus = Array.from({length: film.vcpus}, (_, n) => n);
const areaCells = table("area", vcpus.map(n => "vcpu" + n));
const hostCells = table("host", film.entities);
const msrNames = [];
for (const n of vcpus) film.msrs.forEach((name, place) => {
  if (film.msr.some(one => one[1] === n && one[2] === place && one[3] !== "0")) msrNames.push([n, place, name]);
});
const msrCells = table("msrs", msrNames.map(([n, , name]) => "vcpu" + n + " " + name.replace("MSR_KVM_", "")));
if (!msrNames.length) $("msrs").append(make("p", "soft", "none is written in these steps"));
const write = (cell, text, name) => {
  if (cell.textContent !== text) cell.textContent = text;
  cell.className = name || "";
};
const areaText = area => {
  if (!area) return "no area is registered";
  const odd = area[2] % 2 ? "ODD, the host is writing" : "even, at rest";
  return `at 0x${area[0]}: steal ${grouped(area[1])} ns, version ${area[2]} (${odd}), preempted ${area[4]}`;
};

// --- showing a position ---
let current = -1, linked = 0;
const show = index => {
  index = Math.max(0, Math.min(count - 1, index));
  if (index === current) return;
  current = index;
  const frame = frames[index], before = index ? frames[index - 1] : frame, position = first + index;
  needle.style.left = `calc(5.2rem + (100% - 5.2rem) * ${(index + .5) / count})`;
  const slide = $("slide");
  slide.value = index;
  const next = frame.next < 0 ? "" : film.code[frame.next][1];
  const over = position === film.last ? "; the run is over" : `; vcpu${frame.acting} comes to ${next}`;
  slide.setAttribute("aria-valuetext", "position " + position + over);
  $("at").textContent = `position ${grouped(position)}, ${grouped(frame.now)} ns${over}`;
  const told = [];
  if (frame.did >= 0) {
    const [address, text, , place, source] = film.code[frame.what];
    told.push(make("p", "what", `vcpu${frame.did}  ${address}  ${text}${place ? "   (" + place + "  " + source + ")" : ""}`));
  }
  for (const text of frame.texts) told.push(make("p", "", film.texts[text]));
  if (!told.length) told.push(make("p", "soft", index ? "The host decides who runs." : "Here the page begins."));
  $("told").replaceChildren(...told);
  showCode(frame);
  const old = before.acting === frame.acting ? before.registers : frame.registers;
  registerCells.forEach(([row, cell], place) => {
    const value = frame.registers[place] || "0";
    write(cell, value);
    row.className = (old[place] || "0") !== value ? "new" : "";
    if (row.className) cell.textContent = "*" + value;
  });
  const flags = parseInt(frame.registers[film.registers.length - 1] || "0", 16);
  flagRow.textContent = FLAGS.map(([name, bit]) => name + "=" + (flags >> bit & 1)).join(" ");
  areaCells.forEach((cell, n) => {
    const area = frame.areas[n], changed = area !== before.areas[n];
    write(cell, areaText(area), area && area[2] % 2 ? "odd" : changed ? "new" : "");
  });
  hostCells.forEach((cell, n) => {
    const [state, pcpu, since] = frame.host[n] || ["sleeps", null, 0];
    const on = pcpu === null ? "" : " on pCPU " + pcpu;
    const steal = state === "waits" && n < film.vcpus ? " (steal)" : "";
    write(cell, `${state}${on}${steal} since ${grouped(since)} ns`, frame.host[n] !== before.host[n] ? "new" : "");
  });
  msrCells.forEach((cell, n) => {
    const key = msrNames[n][0] + ":" + msrNames[n][1];
    write(cell, "0x" + (frame.msrs[key] || "0"), frame.msrs[key] !== before.msrs[key] ? "new" : "");
  });
  write($("out"), printed[frame.out], "scroll");
  $("link").href = "#step=" + position;
  clearTimeout(linked);
  linked = setTimeout(() => { try { history.replaceState(null, "", "#step=" + position); } catch { /* a srcdoc has no address */ } }, 250);
};

// --- going somewhere ---
const near = (way, test) => {
  for (let n = current + way; n >= 0 && n < count; n += way) if (test(frames[n], n)) return show(n);
};
const kind = bits => frame => frame.kind & bits;
const GO = {
  first: () => show(0), last: () => show(count - 1), step: () => show(current + 1), back: () => show(current - 1),
  update: way => near(way, kind(EVEN)), odd: way => near(way, frame => frame.kind & ODD && Object.values(frame.areas).some(area => area && area[2] % 2)), exit: way => near(way, kind(EXIT | TRAP)),
  read: way => near(way, kind(ACCESS)), host: way => near(way, kind(HOST)),
};
const KEYS = {ArrowRight: GO.step, ArrowLeft: GO.back, Home: GO.first, End: GO.last,
  PageDown: () => show(current + 100), PageUp: () => show(current - 100)};
const LETTERS = {n: GO.update, d: GO.odd, x: GO.exit, r: GO.read, h: GO.host};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const scrolls = event.target.closest && event.target.closest(".scroll");
  const letter = LETTERS[event.key.toLowerCase()];
  if (KEYS[event.key] && !(scrolls && /Page|Home|End/.test(event.key))) KEYS[event.key]();
  else if (letter && event.key.length === 1) letter(event.shiftKey ? -1 : 1);
  else return;
  event.preventDefault();
});
document.querySelectorAll("[data-go]").forEach(button =>
  button.addEventListener("click", () => GO[button.dataset.go](1)));
$("slide").max = count - 1;
$("slide").addEventListener("input", event => show(Number(event.target.value)));
const drag = event => {
  const box = lanes[0][0].getBoundingClientRect();
  show(Math.floor((event.clientX - box.left) / box.width * count));
};
$("lanes").addEventListener("pointerdown", event => { $("lanes").setPointerCapture(event.pointerId); drag(event); });
$("lanes").addEventListener("pointermove", event => { if (event.buttons) drag(event); });
const fromLink = () => {
  const found = /^#(?:step=)?(\d+)$/.exec(location.hash);
  return found ? Number(found[1]) - first : null;
};
addEventListener("hashchange", () => { const index = fromLink(); if (index !== null) show(index); });
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  paint();
});
addEventListener("resize", paint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
paint();
const begin = fromLink();
show(begin !== null ? begin : Math.max(0, film.cursor - first));
document.documentElement.dataset.ready = "true";
window.emu = {show: position => show(position - first), get position() { return first + current; }, first, last};
})();
