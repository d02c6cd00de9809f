// Draw what changed once a task, not once an action.
//
// Every component of the page asks at every action of Dash's store whether it is concerned. A page of
// several hundred components starts with some two thousand actions, most of them in a few bursts:
// a million questions, and half of the time until the first map. What watches the store to run
// callbacks is told of each action as ever; what draws components is told once when a burst is over.
// Dash offers each store that it makes in `dash_stores`, after its own watchers and before what draws.

(function () {
  "use strict";

  // Call `listener` in a task of its own, once however often it is asked for until then. A message
  // to oneself is such a task; unlike a timer or a frame it also comes while the tab is hidden.
  function onceATask(listener) {
    const { port1: due, port2: ask } = new MessageChannel();
    let asked = false;
    due.onmessage = () => {
      asked = false;
      listener();
    };
    return () => {
      if (asked) return;
      asked = true;
      ask.postMessage(null);
    };
  }

  const stores = [];
  stores.push = function (store) {
    const { subscribe } = store;
    store.subscribe = (listener) => subscribe(onceATask(listener));
    return Array.prototype.push.call(this, store);
  };
  window.dash_stores = stores;
})();
