// The calibration: the threshold's slider moves the marks and writes the numbers. All counts are exact, none is computed anew.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const get = (id) => document.getElementById(id);
  const slider = get("threshold");
  const picker = get("model");
  const share = get("prevalence");
  const logarithmic = get("logarithmic");
  const charts = [...document.querySelectorAll("svg.live")];
  let model = 0;
  let at = 0;

  const percent = (rate) => {
    const value = 100 * rate;
    const near = Math.min(value, 100 - value);
    const decimals = near <= 0 ? 0 : near >= 1 ? 1 : near >= 0.1 ? 2 : near >= 0.01 ? 3 : 4;
    return `${value.toFixed(decimals)} %`;
  };
  const short = (value) => String(Number(value.toPrecision(7)));
  const count = (value) => value.toLocaleString("en");

  // From numbers to places in a chart, and back.
  const scale = (svg) => {
    const d = svg.dataset;
    const [left, right, top, bottom, x0, x1, y0, y1] =
      [d.left, d.right, d.top, d.bottom, d.x0, d.x1, d.y0, d.y1].map(Number);
    const flat = (value) => ("log" in d ? Math.log10(Math.max(value, x0)) : value);
    const clamp = (value) => Math.min(1, Math.max(0, value));
    return {
      x: (value) => left + clamp((flat(value) - flat(x0)) / (flat(x1) - flat(x0))) * (right - left),
      y: (value) => bottom - clamp((value - y0) / (y1 - y0)) * (bottom - top),
      value: (x) => x0 + clamp((x - left) / (right - left)) * (x1 - x0),
    };
  };
  const scales = new Map(charts.map((svg) => [svg, scale(svg)]));

  const point = (one, i) => {
    const tp = one.tp[i];
    const fp = one.fp[i];
    const fn = one.positives - tp;
    const tn = one.negatives - fp;
    const total = one.positives + one.negatives;
    const flip = ([low, high]) => [1 - high, 1 - low];
    const ends = (name) => [one[name][0][i], one[name][1][i]];
    return {
      tp, fp, fn, tn, flagged: tp + fp,
      rates: {
        fpr: [fp, one.negatives, ends("fpr")],
        fnr: [fn, one.positives, flip(ends("tpr"))],
        tpr: [tp, one.positives, ends("tpr")],
        precision: [tp, tp + fp, ends("precision")],
      },
      accuracy: (tp + tn) / total,
      f1: (2 * tp) / (2 * tp + fp + fn),
    };
  };

  const write = (name, text) => {
    for (const cell of document.querySelectorAll(`[data-cell="${name}"]`)) cell.textContent = text;
  };

  const show = () => {
    const one = data.models[model];
    const now = point(one, at);
    // A threshold that lies between two scores has a name of its own, and does what the next score does.
    const named = one.picks.find(([index]) => index === at);
    const value = named ? named[2] : one.threshold[at];
    write("value", short(value));
    for (const name of ["tp", "fp", "fn", "tn"]) write(name, count(now[name]));
    for (const [name, [some, total, [low, high]]] of Object.entries(now.rates)) {
      write(name, total ? percent(some / total) : "none flagged");
      write(`${name}-ends`, total ? `${percent(low)} to ${percent(high)}` : "");
      write(`${name}-of`, `${count(some)} of ${count(total)}`);
    }
    write("accuracy", percent(now.accuracy));
    write("f1", now.f1.toFixed(4));
    const prevalence = Number(share.value) / 100;
    const fpr = now.fp / one.negatives;
    const tpr = now.tp / one.positives;
    const flagged = tpr * prevalence + fpr * (1 - prevalence);
    write("share", share.value);
    const meant = share.value !== "" && prevalence > 0 && prevalence < 1;
    write("meant", !meant ? "give a share between 0 and 100 %" : flagged ? percent((tpr * prevalence) / flagged) : "none flagged");
    write("flags", meant ? percent(flagged) : "");

    for (const svg of charts) {
      const to = scales.get(svg);
      const dot = svg.querySelector(".dot");
      const cross = svg.querySelector(".cross");
      const cut = svg.querySelector(".cut");
      if (cut) {
        cut.setAttribute("transform", `translate(${to.x(value)} 0)`);
        continue;
      }
      const roc = svg.dataset.kind === "roc";
      const [x, xs] = roc ? [fpr, now.rates.fpr[2]] : [tpr, now.rates.tpr[2]];
      const [y, ys] = roc ? [tpr, now.rates.tpr[2]] : [now.flagged ? now.tp / now.flagged : 1, now.rates.precision[2]];
      dot.setAttribute("transform", `translate(${to.x(x)} ${to.y(y)})`);
      cross.setAttribute("d", `M${to.x(xs[0])} ${to.y(y)}H${to.x(xs[1])}M${to.x(x)} ${to.y(ys[0])}V${to.y(ys[1])}`);
    }
    slider.value = one.threshold.length - 1 - at;
    slider.setAttribute("aria-valuetext", `threshold ${short(value)}`);
    for (const button of document.querySelectorAll("[data-pick]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.pick) === at));
    }
  };

  const choose = (i) => {
    at = Math.min(data.models[model].threshold.length - 1, Math.max(0, i));
    show();
  };

  const fill = () => {
    const one = data.models[model];
    slider.max = one.threshold.length - 1;
    get("picks").replaceChildren(...one.picks.map(([index, text]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.pick = index;
      button.textContent = text;
      button.addEventListener("click", () => choose(index));
      return button;
    }));
    for (const group of document.querySelectorAll("[data-model]")) {
      group.setAttribute("visibility", Number(group.dataset.model) === model ? "visible" : "hidden");
    }
    get("thinned").textContent = one.thinned;
    choose(one.chosen);
  };

  // Thresholds fall in the data; the slider's right end is the highest.
  slider.addEventListener("input", () => choose(data.models[model].threshold.length - 1 - Number(slider.value)));
  share.addEventListener("input", show);
  picker?.addEventListener("change", () => { model = Number(picker.value); fill(); });
  logarithmic.addEventListener("change", () => {
    for (const figure of document.querySelectorAll("[data-twin]")) figure.hidden = (figure.dataset.twin === "log") !== logarithmic.checked;
  });

  for (const svg of charts) {
    const to = scales.get(svg);
    const nearest = (event) => {
      const one = data.models[model];
      const frame = svg.getBoundingClientRect();
      const x = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
      const y = ((event.clientY - frame.top) / frame.height) * svg.viewBox.baseVal.height;
      let best = 0;
      let least = Infinity;
      for (let i = 0; i < one.threshold.length; i += 1) {
        const fpr = one.fp[i] / one.negatives;
        const tpr = one.tp[i] / one.positives;
        const flagged = one.tp[i] + one.fp[i];
        let distance;
        if (svg.dataset.kind === "scores") distance = Math.abs(to.x(one.threshold[i]) - x);
        else if (svg.dataset.kind === "roc") distance = Math.hypot(to.x(fpr) - x, to.y(tpr) - y);
        else distance = Math.hypot(to.x(tpr) - x, to.y(flagged ? one.tp[i] / flagged : 1) - y);
        if (distance < least) [best, least] = [i, distance];
      }
      choose(best);
    };
    svg.addEventListener("pointerdown", nearest);
    svg.addEventListener("pointermove", (event) => { if (event.buttons) nearest(event); });
  }
  fill();
})();
