'use strict';
(function () {
  const data = JSON.parse(document.getElementById('data').textContent);
  const questions = {
    musicality: ['Bad', 'Poor', 'Fair', 'Good', 'Excellent'],
    style_accuracy: ['Not at all', 'A little', 'Partly', 'Mostly', 'Fully']
  };
  const names = Object.keys(questions);
  const store = 'musiclora-listening-' + data.test;
  const audio = {};
  data.items.forEach(function (item) { audio[item.id] = item.audio; });
  const byId = function (id) { return document.getElementById(id); };
  const player = byId('player');
  let heard = false;
  let isKept = true;

  function newState() {
    const random = crypto.getRandomValues(new Uint32Array(4 + data.items.length));
    const listener = Array.from(random.slice(0, 4), function (n) { return n.toString(16).padStart(8, '0'); }).join('');
    const order = data.items.map(function (item) { return item.id; });
    for (let i = order.length - 1; i > 0; i--) { // Fisher-Yates
      const j = random[4 + i] % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return { listener: listener, order: order, screen: 'intro', ratings: [] };
  }

  function isWhole(state) {
    return state && typeof state.listener === 'string' && Array.isArray(state.order) && Array.isArray(state.ratings) &&
      state.order.length === data.items.length && state.order.every(function (id) { return id in audio; }) &&
      ['intro', 'practice', 'rate', 'done'].includes(state.screen) && state.ratings.length <= state.order.length;
  }

  function load() {
    try {
      const state = JSON.parse(localStorage.getItem(store));
      if (isWhole(state)) return state;
    } catch (error) { /* no storage, or a damaged entry: begin anew */ }
    return newState();
  }

  function save() {
    try { localStorage.setItem(store, JSON.stringify(state)); return true; } catch (error) { return false; }
  }

  function crc32(text) {
    let value = 0xffffffff;
    new TextEncoder().encode(text).forEach(function (byte) {
      value ^= byte;
      for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
    });
    return ((value ^ 0xffffffff) >>> 0).toString(16).padStart(8, '0');
  }

  function exported() {
    const lines = [data.test, state.listener].concat(state.ratings.map(function (row) {
      return [row.item].concat(names.map(function (name) { return row[name]; })).join(' ');
    }));
    const whole = { format: 'musiclora-listening-ratings', version: 1, test: data.test, listener: state.listener,
      ratings: state.ratings, checksum: crc32(lines.join('\n')) };
    return JSON.stringify(whole, null, 1) + '\n';
  }

  function addScales() {
    names.forEach(function (name) {
      const box = document.createElement('div');
      box.className = 'scale';
      questions[name].forEach(function (word, i) {
        const label = document.createElement('label');
        const input = document.createElement('input');
        Object.assign(input, { type: 'radio', name: name, value: String(i + 1), required: true });
        input.addEventListener('change', keepDraft);
        label.append(input, document.createTextNode((i + 1) + ' ' + word));
        box.append(label);
      });
      byId(name).append(box);
    });
  }

  function addReferences() {
    document.querySelectorAll('.references').forEach(function (box) {
      data.references.forEach(function (source, i) {
        const element = document.createElement('audio');
        Object.assign(element, { controls: true, preload: 'metadata', src: source });
        const name = document.createElement('p');
        name.className = 'soft';
        name.textContent = 'Reference ' + (i + 1);
        element.setAttribute('aria-label', 'Reference ' + (i + 1) + ' of the style');
        box.append(name, element);
      });
    });
  }

  function pauseOthers(event) {
    document.querySelectorAll('audio').forEach(function (other) { if (other !== event.target) other.pause(); });
  }

  function chosen(name) {
    const input = document.querySelector('input[name=' + name + ']:checked');
    return input ? Number(input.value) : null;
  }

  function keepDraft() {
    state.draft = { heard: heard };
    names.forEach(function (name) { state.draft[name] = chosen(name); });
    save();
  }

  function currentItem() { return state.order[state.ratings.length]; }

  function showPlace(isPractice) {
    const total = state.order.length;
    const done = state.ratings.length;
    byId('bar').hidden = state.screen === 'intro';
    byId('bar').max = total;
    byId('bar').value = done;
    byId('place').textContent = (state.screen === 'rate' ? done + ' of ' + total + ' excerpts rated. ' : '') +
      (isKept ? '' : 'This browser keeps nothing: do not close the page before you have handed in.');
    byId('practice').hidden = !isPractice;
    byId('heading').textContent = isPractice ? 'Practice' : 'Excerpt ' + (done + 1) + ' of ' + total;
    byId('next').textContent = isPractice ? 'Begin the test' : done + 1 === total ? 'Finish' : 'Next excerpt';
  }

  function showItem(isPractice) {
    const draft = state.draft || {};
    heard = Boolean(draft.heard);
    player.src = isPractice ? data.references[0] : audio[currentItem()];
    byId('form').reset();
    byId('problem').textContent = '';
    names.forEach(function (name) {
      const input = document.querySelector('input[name=' + name + '][value="' + draft[name] + '"]');
      if (input) input.checked = true;
    });
  }

  function show(moveFocus) {
    const isPractice = state.screen === 'practice';
    document.querySelectorAll('audio').forEach(function (element) { element.pause(); });
    ['intro', 'rate', 'done'].forEach(function (id) { byId(id).hidden = true; });
    const section = byId(isPractice ? 'rate' : state.screen);
    showPlace(isPractice);
    if (section.id === 'rate') showItem(isPractice);
    if (section.id === 'done') byId('text').value = exported();
    section.hidden = false;
    if (moveFocus) { section.querySelector('h2').focus(); window.scrollTo(0, 0); }
  }

  function go(screen) {
    state.screen = screen;
    delete state.draft;
    isKept = save();
    show(true);
  }

  function submit(event) {
    event.preventDefault();
    const missing = names.filter(function (name) { return chosen(name) === null; });
    if (!heard) {
      byId('problem').textContent = 'Please listen to the excerpt to its end first.';
      player.focus();
    } else if (missing.length) {
      byId('problem').textContent = 'Please answer both questions.';
      document.querySelector('input[name=' + missing[0] + ']').focus();
    } else if (state.screen === 'practice') {
      go('rate');
    } else {
      const row = { item: currentItem() };
      names.forEach(function (name) { row[name] = chosen(name); });
      state.ratings.push(row);
      go(state.ratings.length === state.order.length ? 'done' : 'rate');
    }
  }

  function saveFile() {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([exported()], { type: 'application/json' }));
    link.download = 'ratings-' + state.listener.slice(0, 8) + '.json';
    link.click();
    byId('told').textContent = 'Saved as ' + link.download + '.';
  }

  function copyText() {
    const told = function () { byId('told').textContent = 'Copied.'; };
    const select = function () { byId('text').select(); byId('told').textContent = 'Selected: copy it now.'; };
    if (navigator.clipboard) navigator.clipboard.writeText(exported()).then(told, select); else select();
  }

  const state = load();
  addScales();
  addReferences();
  document.querySelectorAll('audio').forEach(function (element) { element.addEventListener('play', pauseOthers); });
  player.addEventListener('ended', function () { heard = true; byId('problem').textContent = ''; keepDraft(); });
  player.addEventListener('loadedmetadata', function () {
    byId('minutes').textContent = Math.ceil(data.items.length * (player.duration + 10) / 60);
  });
  byId('count').textContent = data.items.length;
  byId('minutes').textContent = Math.ceil(data.items.length * 25 / 60);
  byId('begin').addEventListener('click', function () { go('practice'); });
  byId('form').addEventListener('submit', submit);
  byId('save').addEventListener('click', saveFile);
  byId('copy').addEventListener('click', copyText);
  show(false);
})();
