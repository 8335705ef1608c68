// Draws the trials of a study, filters them, and sorts their table. It reads the element "data".
"use strict";
(() => {
  const study = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("study");
  const css = getComputedStyle(document.documentElement);
  const colour = (name) => css.getPropertyValue(name).trim();
  const FAINT = 0.03, FIRST_ROWS = 50;

  // ---- Axes: the parameters, then the objectives ------------------------------------------------
  const parameters = study.parameters.map((parameter, place) => ({
    ...parameter, value: (trial) => trial.parameters[place] }));
  const objectives = study.objectives.map((name, place) => ({
    name, log: false, choices: null, objective: true,
    value: (trial) => (trial.values ? trial.values[place] : null) }));
  const axes = [...parameters, ...objectives];
  for (const axis of axes) {
    const found = study.trials.map(axis.value).filter((value) => value !== null && value !== undefined);
    if (axis.choices) {
      axis.place = (value) => (axis.choices.length < 2 ? 0.5 : axis.choices.indexOf(value) / (axis.choices.length - 1));
      axis.ends = [axis.choices[0], axis.choices[axis.choices.length - 1]];
    } else {
      const scale = axis.log ? Math.log10 : (value) => value;
      let low = found.length ? Math.min(...found) : 0, high = found.length ? Math.max(...found) : 1;
      axis.ends = [low, high].map(short);
      low = scale(low); high = scale(high);
      axis.place = (value) => (high > low ? (scale(value) - low) / (high - low) : 0.5);
    }
  }
  const better = study.directions.map((direction) => (direction === "maximize" ? 1 : -1));
  const ended = (trial) => trial.values !== null;

  function short(value) {
    if (value === null || value === undefined) return "–";
    return typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
  }

  // ---- What is shown: filters by axis and state -------------------------------------------------
  const states = [...new Set(study.trials.map((trial) => trial.state))];
  const filter = { states: new Set(states), axes: new Map() };
  let shown = study.trials, chosen = null, rows = FIRST_ROWS;
  const order = { column: objectives.length ? axes.length - objectives.length : -1, sign: -better[0] };

  function passes(trial) {
    if (!filter.states.has(trial.state)) return false;
    for (const [axis, limits] of filter.axes) {
      const value = axis.value(trial);
      if (value === null || value === undefined) return false;
      if (axis.choices ? value !== limits.choice : value < limits.low || value > limits.high) return false;
    }
    return true;
  }

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key.startsWith("aria") || key === "for" || key === "scope") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  function filterOf(axis, number) {
    const id = `filter-${number}`;
    const set = (limits) => { if (limits) filter.axes.set(axis, limits); else filter.axes.delete(axis); update(); };
    if (axis.choices) {
      const select = element("select", { id }, element("option", { value: "", textContent: "all" }),
        ...axis.choices.map((choice) => element("option", { value: choice, textContent: choice })));
      select.addEventListener("change", () => set(select.value === "" ? null : { choice: select.value }));
      return element("div", { className: "field" }, element("label", { for: id, textContent: axis.name }), select);
    }
    const inputs = ["from", "to"].map((word, place) => element("input", {
      type: "number", step: "any", placeholder: axis.ends[place], "aria-label": `${axis.name}, ${word}` }));
    for (const input of inputs) {
      input.addEventListener("input", () => {
        const [low, high] = inputs.map((each) => (each.value === "" ? null : Number(each.value)));
        set(low === null && high === null ? null : { low: low ?? -Infinity, high: high ?? Infinity });
      });
    }
    return element("fieldset", { className: "range" }, element("legend", { textContent: axis.name }), ...inputs);
  }

  // ---- Drawing ----------------------------------------------------------------------------------
  function picture(title, note, height, draw) {
    const canvas = element("canvas", { role: "img" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}; the table below has the numbers`);
    canvas.className = "drawn";
    const figure = element("figure", {}, element("h3", { textContent: title }), canvas,
      element("figcaption", { textContent: note }));
    figure.redraw = () => {
      const width = canvas.clientWidth || 600, dots = window.devicePixelRatio || 1;
      canvas.width = width * dots; canvas.height = height * dots;
      const pen = canvas.getContext("2d");
      pen.scale(dots, dots);
      pen.font = "12px system-ui, sans-serif";
      pen.lineWidth = 1;
      draw(pen, width, height);
    };
    return figure;
  }

  function text(pen, words, x, y, align = "left", name = "--pale", limit = 0) {
    pen.globalAlpha = 1; pen.fillStyle = colour(name); pen.textAlign = align;
    if (limit) while (words.length > 4 && pen.measureText(words).width > limit) words = `${words.slice(0, -2)}…`;
    pen.fillText(words, x, y);
  }

  function frame(pen, left, top, right, bottom) {
    pen.globalAlpha = 1; pen.strokeStyle = colour("--rule"); pen.strokeRect(left, top, right - left, bottom - top);
  }

  // How good a trial is among all: 1 is the best, 0 what has no value.
  const merit = new Map();
  study.trials.filter((trial) => trial.values !== null && trial.values[0] !== null)
    .sort((one, other) => better[0] * (one.values[0] - other.values[0]))
    .forEach((trial, place, all) => merit.set(trial, (place + 1) / all.length));

  // Others faint, shown plain and the better the stronger, the chosen one on top.
  function layers(pen, trials, draw) {
    const inside = new Set(shown);
    const plain = Math.min(1, Math.max(0.08, 60 / shown.length));
    for (const [some, alpha, name, width] of [
      [trials.filter((trial) => !inside.has(trial)), FAINT, "--pale", 1],
      [trials.filter((trial) => inside.has(trial)), plain, "--accent", 1.2],
      [trials.filter((trial) => trial === chosen), 1, "--ink", 3]]) {
      pen.globalAlpha = alpha; pen.strokeStyle = pen.fillStyle = colour(name); pen.lineWidth = width;
      for (const trial of some) {
        if (alpha === plain) pen.globalAlpha = plain * (0.15 + 0.85 * (merit.get(trial) || 0) ** 3);
        draw(trial, some[0] === chosen);
      }
    }
    pen.lineWidth = 1;
  }

  function point(pen, x, y, large) {
    pen.globalAlpha = Math.min(1, pen.globalAlpha * 3);
    pen.beginPath(); pen.arc(x, y, large ? 5 : 2.5, 0, 7); pen.fill();
  }

  const parallel = picture("Parallel coordinates", "A line is a trial, the better the stronger; filters above leave some of them.", 320,
    (pen, width, height) => {
      const top = 44, bottom = height - 24, left = 60, right = width - 60;
      const x = (place) => (axes.length < 2 ? width / 2 : left + (right - left) * place / (axes.length - 1));
      const y = (axis, value) => bottom - (bottom - top) * axis.place(value);
      layers(pen, study.trials, (trial) => {
        pen.beginPath();
        let broken = true;
        axes.forEach((axis, place) => {
          const value = axis.value(trial);
          if (value === null || value === undefined) { broken = true; return; }
          if (broken) pen.moveTo(x(place), y(axis, value)); else pen.lineTo(x(place), y(axis, value));
          broken = false;
        });
        pen.stroke();
      });
      axes.forEach((axis, place) => {
        pen.globalAlpha = 1; pen.strokeStyle = colour("--edge");
        pen.beginPath(); pen.moveTo(x(place), top); pen.lineTo(x(place), bottom); pen.stroke();
        const room = (right - left) / Math.max(1, axes.length - 1) - 6;
        text(pen, axis.name, x(place), place % 2 ? 14 : 28, "center", axis.objective ? "--accent" : "--ink", 1.8 * room);
        const marks = axis.choices || axis.ends;
        marks.forEach((mark, number) => {
          const share = marks.length < 2 ? 0.5 : number / (marks.length - 1);
          text(pen, short(mark), x(place) + 4, bottom - (bottom - top) * share + 4, "left", "--ink", room);
        });
      });
    });

  const objective = objectives[0];
  function scatter(pen, left, top, right, bottom, place, label, ends) {
    frame(pen, left, top, right, bottom);
    layers(pen, study.trials.filter(ended), (trial, large) => {
      const at = place(trial);
      if (at === null) return;
      point(pen, left + 4 + (right - left - 8) * at, bottom - 4 - (bottom - top - 8) * objective.place(objective.value(trial)), large);
    });
    text(pen, label, (left + right) / 2, bottom + 28, "center", "--ink", right - left);
    text(pen, short(ends[0]), left, bottom + 14); text(pen, short(ends[1]), right, bottom + 14, "right");
  }

  const last = Math.max(1, study.trials.length ? study.trials[study.trials.length - 1].number : 1);
  const history = picture("History", `${objective.name} by number of the trial; the line is the best so far.`, 260,
    (pen, width, height) => {
      const left = 60, top = 12, right = width - 12, bottom = height - 36;
      scatter(pen, left, top, right, bottom, (trial) => trial.number / last, "trial", [0, last]);
      text(pen, objective.ends[1], left - 6, top + 10, "right"); text(pen, objective.ends[0], left - 6, bottom, "right");
      pen.globalAlpha = 1; pen.strokeStyle = colour("--ink"); pen.beginPath();
      let best = null;
      for (const trial of study.trials.filter((each) => each.state === "done")) {
        const value = objective.value(trial);
        if (best !== null && better[0] * value <= better[0] * best) continue;
        const x = left + 4 + (right - left - 8) * trial.number / last;
        const y = bottom - 4 - (bottom - top - 8) * objective.place(value);
        if (best === null) pen.moveTo(x, y);
        else { pen.lineTo(x, bottom - 4 - (bottom - top - 8) * objective.place(best)); pen.lineTo(x, y); }
        best = value;
      }
      if (best !== null) pen.lineTo(right - 4, bottom - 4 - (bottom - top - 8) * objective.place(best));
      pen.stroke();
    });

  const across = () => Math.max(1, Math.min(parameters.length, Math.floor((root.clientWidth || 900) / 240)));
  const slices = picture("Slices", `${objective.name} by each parameter.`, 1, () => {});
  const sliceCanvas = slices.querySelector("canvas");
  slices.redraw = () => {
    const columns = across(), height = 200 * Math.ceil(parameters.length / columns) + 8;
    const width = sliceCanvas.clientWidth || 600, dots = window.devicePixelRatio || 1;
    sliceCanvas.style.height = `${height}px`;
    sliceCanvas.width = width * dots; sliceCanvas.height = height * dots;
    const pen = sliceCanvas.getContext("2d");
    pen.scale(dots, dots); pen.font = "12px system-ui, sans-serif";
    parameters.forEach((axis, place) => {
      const cell = (width - 50) / columns, left = 50 + cell * (place % columns), top = 8 + 200 * Math.floor(place / columns);
      scatter(pen, left, top, left + cell - 20, top + 150, (trial) => {
        const value = axis.value(trial);
        return value === null || value === undefined ? null : axis.place(value);
      }, axis.name, axis.ends);
      if (place % columns === 0) {
        text(pen, objective.ends[1], left - 6, top + 10, "right"); text(pen, objective.ends[0], left - 6, top + 150, "right");
      }
    });
  };

  const points = study.trials.flatMap((trial) => trial.curve).filter(([, value]) => value !== null);
  const far = Math.max(1, ...points.map(([step]) => step));
  const curves = points.length ? picture("Learning curves", `${objective.name} on validation by examples seen (of folds: by fold).`, 260,
    (pen, width, height) => {
      const left = 60, top = 12, right = width - 12, bottom = height - 36;
      const high = Math.max(...points.map(([, value]) => value)), low = Math.min(0, ...points.map(([, value]) => value));
      frame(pen, left, top, right, bottom);
      layers(pen, study.trials, (trial, large) => {
        pen.beginPath();
        trial.curve.forEach(([step, value], number) => {
          if (value === null) return;
          const x = left + (right - left) * step / far, y = bottom - (bottom - top) * (value - low) / (high - low || 1);
          if (number) pen.lineTo(x, y); else pen.moveTo(x, y);
          if (trial.curve.length === 1) { point(pen, x, y, large); }
        });
        pen.stroke();
      });
      text(pen, short(high), left - 6, top + 10, "right"); text(pen, short(low), left - 6, bottom, "right");
      text(pen, "0", left, bottom + 14); text(pen, short(far), right, bottom + 14, "right");
      text(pen, "examples", (left + right) / 2, bottom + 28, "center", "--ink");
    }) : null;

  // ---- The table --------------------------------------------------------------------------------
  const columns = [
    { name: "Trial", value: (trial) => trial.number }, { name: "State", value: (trial) => trial.state },
    ...axes, { name: "Minutes", value: (trial) => (trial.seconds === null || trial.seconds === undefined ? null : trial.seconds / 60) }];
  order.column += 2;
  const head = element("tr", {}), body = element("tbody", {});
  columns.forEach((column, number) => {
    const button = element("button", { type: "button", textContent: column.name });
    button.addEventListener("click", () => {
      order.sign = order.column === number ? -order.sign : 1;
      order.column = number;
      list();
    });
    column.cell = element("th", { scope: "col" }, button);
    head.append(column.cell);
  });
  const more = element("button", { type: "button" });
  more.addEventListener("click", () => { rows += 200; list(); });
  const told = element("output", {}), detail = element("p", { className: "note" });
  detail.setAttribute("aria-live", "polite");

  function list() {
    const column = columns[order.column];
    const sorted = [...shown].sort((one, other) => {
      const [a, b] = [one, other].map(column.value);
      if (a === null || a === undefined) return 1;
      if (b === null || b === undefined) return -1;
      return order.sign * (a < b ? -1 : a > b ? 1 : 0);
    });
    columns.forEach((each) => each.cell.setAttribute("aria-sort", each !== column ? "none" : order.sign > 0 ? "ascending" : "descending"));
    body.replaceChildren(...sorted.slice(0, rows).map((trial) => {
      const choose = element("button", { type: "button", textContent: trial.number });
      choose.setAttribute("aria-pressed", trial === chosen);
      choose.addEventListener("click", () => {
        chosen = trial === chosen ? null : trial;
        detail.textContent = chosen ? `Trial ${trial.number}: ${trial.settings}` : "";
        list(); draw();
      });
      const row = element("tr", { className: trial === chosen ? "selected" : "" }, element("th", { scope: "row" }, choose));
      for (const each of columns.slice(1)) row.append(element("td", { textContent: short(each.value(trial)) }));
      return row;
    }));
    more.hidden = sorted.length <= rows;
    more.textContent = `Show more of ${sorted.length}`;
    told.textContent = `${shown.length} of ${study.trials.length} trials`;
  }

  function draw() {
    for (const figure of [parallel, history, slices, curves]) if (figure) figure.redraw();
  }

  function update() {
    shown = study.trials.filter(passes);
    rows = FIRST_ROWS;
    list(); draw();
  }

  // ---- Put together -----------------------------------------------------------------------------
  const boxes = states.map((state) => {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) filter.states.add(state); else filter.states.delete(state);
      update();
    });
    return element("label", {}, box, ` ${state} `);
  });
  const controls = element("div", { className: "panel axes" },
    element("fieldset", {}, element("legend", { textContent: "State" }), ...boxes), ...axes.map(filterOf));
  controls.setAttribute("role", "group"); controls.setAttribute("aria-label", "Filters");
  const grid = element("table", {}, element("caption", { className: "hidden", textContent: "Trials" }),
    element("thead", {}, head), body);
  const wide = element("div", { className: "wide", tabIndex: 0 }, grid);
  wide.setAttribute("role", "group"); wide.setAttribute("aria-labelledby", "trials-title");
  const pair = element("div", { className: "charts" }, history, ...(curves ? [curves] : []));
  root.append(controls, element("p", {}, told), parallel, pair, ...(parameters.length ? [slices] : []), wide, more, detail);
  update();
  window.addEventListener("resize", draw);
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
